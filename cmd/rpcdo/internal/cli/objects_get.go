package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rpc.do/durable"
)

type getFlags struct {
	connection
	storage bool
}

func (a *app) objectsGet() *cobra.Command {
	f := &getFlags{}
	cmd := &cobra.Command{
		Use:   "get <class> <id> [flags]",
		Short: "Show what is stored of an object",
		Long: `Shows what is stored of an object: its state, its alarm, whether it is paused,
and with --storage the entries of its keyed storage. The object is not woken.`,
		Example: "  rpcdo objects get counter alice\n  rpcdo objects get counter alice --storage --json",
		Args:    oneObject,
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runGet(cmd.Context(), f, args[0], args[1]) },
	}
	cmd.Flags().BoolVar(&f.storage, "storage", false, "show the keyed storage too")
	f.register(cmd)
	return cmd
}

// shownObject is an object for programs.
type shownObject struct {
	Class string `json:"class"`
	durable.Info
	Storage *[]shownEntry `json:"storage,omitempty"`
}

type shownEntry struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

func (a *app) runGet(ctx context.Context, f *getFlags, class, id string) error {
	return a.withClass(ctx, &f.connection, class, func(c *durable.Catalogue) error {
		info, err := c.State(ctx, id)
		if err != nil {
			return err
		}
		object := shownObject{Class: class, Info: info}
		if f.storage {
			entries, err := c.Entries(ctx, id, durable.ListOptions{})
			if err != nil {
				return err
			}
			shown := make([]shownEntry, 0, len(entries))
			for _, e := range entries {
				shown = append(shown, shownEntry{e.Key, asJSON(e.Value)})
			}
			object.Storage = &shown
		}
		if a.json {
			object.State = asJSON(object.State)
			return a.printJSON(object)
		}
		return a.printTable(object.print)
	})
}

// asJSON returns data as it is, or as a text when it is not JSON: somebody may
// have put it there by hand.
func asJSON(data []byte) json.RawMessage {
	if json.Valid(data) {
		return data
	}
	text, _ := json.Marshal(string(data)) // a string can be written
	return text
}

// print writes the object for people. Columns are separated by tabs.
func (o *shownObject) print(w *tabwriter.Writer) {
	fmt.Fprintf(w, "%s/%s\n", o.Class, shownID(o.ID))
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %s\t%s\n", name, plain(fmt.Sprintf(format, args...)))
	}
	row("state", "%s", compactJSON(o.State))
	row("modified", "%s", shownTime(o.Modified))
	commit := o.Commit
	if commit == "" {
		commit = "not by an owner"
	}
	row("revision", "%d, commit %s, epoch %d, schema %d", o.Revision, commit, o.Epoch, o.Schema)
	switch {
	case o.Alarm == nil:
	case o.AlarmAttempts > 0:
		row("alarm", "%s, failed %d times", shownTime(*o.Alarm), o.AlarmAttempts)
	default:
		row("alarm", "%s", shownTime(*o.Alarm))
	}
	if d := o.DeadAlarm; d != nil {
		row("dead alarm", "%s, given up after %d attempts, at %s: %s", shownTime(d.Scheduled), d.Attempts, shownTime(d.Time), d.Error)
	}
	if o.Paused != nil {
		row("paused", "%s", shownPause(o.Paused))
	}
	if o.Storage == nil {
		return
	}
	row("storage", "%d entries", len(*o.Storage))
	for _, e := range *o.Storage {
		fmt.Fprintf(w, "    %s\t%s\n", shownID(e.Key), compactJSON(e.Value))
	}
}

func shownPause(p *durable.Pause) string {
	what := "since "
	if p.ID == "" {
		what = "with its class since "
	}
	text := what + shownTime(p.Since)
	if p.Reason != "" {
		text += ": " + p.Reason
	}
	return text
}

func shownTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000 -07:00") }
