package cli

import (
	"strings"

	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"

	"rpc.do/bus"
)

// credentials is who the program is on the bus. Flags name files and the user;
// passwords and tokens come from the environment, where other users can't see
// them, or are in the URL.
type credentials struct {
	creds string // file with a JWT and its seed
	nkey  string // file with a seed
	user  string

	// Filled in from the environment.
	password string
	token    string

	// What the values are from, for messages: "--creds" or "NATS_CREDS".
	credsFrom, userFrom string
}

func (c *credentials) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&c.creds, "creds", "", "`FILE` with a user's JWT and seed (NATS_CREDS)")
	flags.StringVar(&c.nkey, "nkey", "", "`FILE` with a user's NKey seed")
	flags.StringVar(&c.user, "user", "", "`NAME` of a user (NATS_USER), whose password is in NATS_PASSWORD; a token is in NATS_TOKEN")
}

func (c *credentials) given() bool { return c.creds != "" || c.nkey != "" || c.user != "" }

// fill takes from the environment what the command line does not say: any
// credentials there take the place of all that are in the environment. Named
// says where the servers' URLs are from.
func (c *credentials) fill(getenv func(string) string, server, named string) error {
	c.credsFrom, c.userFrom = "--creds", "--user"
	inURL := strings.Contains(server, "@")
	if !c.given() && (!inURL || named != flagServer) {
		c.creds, c.credsFrom = getenv("NATS_CREDS"), "NATS_CREDS"
		c.user, c.userFrom = getenv("NATS_USER"), "NATS_USER"
		c.token = getenv("NATS_TOKEN")
	}
	var kinds []string
	for _, kind := range []struct {
		name  string
		given bool
	}{
		{named, inURL}, {c.credsFrom, c.creds != ""}, {"--nkey", c.nkey != ""}, {c.userFrom, c.user != ""}, {"NATS_TOKEN", c.token != ""},
	} {
		if kind.given {
			kinds = append(kinds, kind.name)
		}
	}
	if len(kinds) > 1 {
		return usagef("%s hold credentials: give one of them", strings.Join(kinds, " and "))
	}
	if c.user != "" {
		if c.password = getenv("NATS_PASSWORD"); c.password == "" {
			return usagef("%s %s: the password is missing: set NATS_PASSWORD", c.userFrom, c.user)
		}
	}
	return nil
}

// check reads the files, so that what is wrong with one is said before it is
// used. The contents are in no message.
func (c *credentials) check() error {
	if c.creds != "" {
		data, err := readFlagFile(c.credsFrom, c.creds)
		if err != nil {
			return err
		}
		token, err := nkeys.ParseDecoratedJWT(data)
		if err != nil || strings.Count(token, ".") != 2 || !hasSeed(data) {
			return usagef("%s %s: no JWT and seed of a user in it: want a file as nsc makes it", c.credsFrom, c.creds)
		}
	}
	if c.nkey != "" {
		data, err := readFlagFile("--nkey", c.nkey)
		if err != nil {
			return err
		}
		if !hasSeed(data) {
			return usagef("--nkey %s: no seed of a user in it, which begins with SU", c.nkey)
		}
	}
	return nil
}

// hasSeed reports whether data hold the seed of a user.
func hasSeed(data []byte) bool {
	pair, err := nkeys.ParseDecoratedUserNKey(data)
	if err != nil {
		return false
	}
	pair.Wipe()
	return true
}

// apply puts the credentials into the config.
func (c *credentials) apply(cfg *bus.Config) {
	cfg.CredentialsFile, cfg.NKeySeedFile = c.creds, c.nkey
	cfg.User, cfg.Password, cfg.Token = c.user, c.password, c.token
}

// refused says whose credentials the bus at where has refused.
func (c *credentials) refused(server, named string) string {
	switch {
	case c.creds != "":
		return "the credentials in " + c.credsFrom + " " + c.creds
	case c.nkey != "":
		return "the key in --nkey " + c.nkey
	case c.user != "":
		return c.userFrom + " " + c.user + " with the password in NATS_PASSWORD"
	case c.token != "":
		return "the token in NATS_TOKEN"
	case strings.Contains(server, "@"):
		return "the credentials in " + named
	default:
		return ""
	}
}
