package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/bus"
	"rpc.do/durable"
)

func (a *app) objects() *cobra.Command {
	return group(&cobra.Command{
		Use:   "objects",
		Short: "Look at durable objects and manage them",
		Long: `Looks at durable objects without waking them, and manages them. An object has a
class, such as counter, and an id, which is any text of 1 to 256 bytes; put it
in quotes when it has spaces.

All but call and rm read what is stored, so nobody needs to serve the class.`,
		Example: `  rpcdo objects ls
  rpcdo objects ls counter
  rpcdo objects get counter alice`,
		GroupID: groupCall,
	}, a.objectsList(), a.objectsGet(), a.objectsCall(), a.objectsRemove(), a.objectsPause(), a.objectsResume(), a.objectsWatch())
}

type listFlags struct {
	connection
	prefix, after string
	limit         int
}

func (a *app) objectsList() *cobra.Command {
	f := &listFlags{}
	cmd := &cobra.Command{
		Use:     "ls [class] [flags]",
		Aliases: []string{"list"},
		Short:   "List the classes, or the ids of a class's objects",
		Long: `Lists the classes that objects have been stored of: how many there are, how many
instances serve them now, and whether they are paused. A class that was renamed
has its former name here. In a class with more than 100,000 keys the objects are
not counted: there are at most as many as it says.

With a class it lists the ids of its objects, one a line, in the order of their
bytes. What can't be shown as it is comes in quotes.`,
		Example: `  rpcdo objects ls
  rpcdo objects ls counter --prefix al --limit 10
  rpcdo objects ls counter --after alice --json`,
		Args: atMostOneClass,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.listIDs(cmd.Context(), f, args[0])
			}
			for _, name := range []string{"prefix", "after", "limit"} {
				if cmd.Flags().Changed(name) {
					return usagef("--%s is for the ids of a class: name one", name)
				}
			}
			return a.listClasses(cmd.Context(), f)
		},
	}
	cmd.Flags().StringVar(&f.prefix, "prefix", "", "list ids that begin with this `TEXT`")
	cmd.Flags().StringVar(&f.after, "after", "", "list ids after this `ID`")
	cmd.Flags().IntVar(&f.limit, "limit", 1000, "how many ids to list; 0 for all")
	f.register(cmd)
	return cmd
}

func (a *app) listClasses(ctx context.Context, f *listFlags) (err error) {
	b, err := f.open(ctx, a, nil, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	classes, err := durable.Classes(ctx, b)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(append([]durable.ClassInfo{}, classes...))
	}
	if len(classes) == 0 {
		a.note("rpcdo: there are no classes of objects on %s", f.where())
		return nil
	}
	return a.printTable(func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "CLASS\tOBJECTS\tINSTANCES\tPAUSED")
		for _, c := range classes {
			count, paused := strconv.Itoa(c.Objects), "-"
			if !c.Exact {
				count = "at most " + count
			}
			if c.Paused != nil {
				paused = cmp.Or(plain(c.Paused.Reason), "yes")
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", c.Class, count, c.Members, paused)
		}
	})
}

func (a *app) listIDs(ctx context.Context, f *listFlags, class string) error {
	if f.limit < 0 {
		return usagef("--limit %d: want 1 or more, or 0 for all", f.limit)
	}
	return a.withClass(ctx, &f.connection, class, func(c *durable.Catalogue) error {
		page := durable.Page{IDs: []string{}}
		var err error
		if f.limit > 0 {
			page, err = c.IDs(ctx, durable.ListIDs{Prefix: f.prefix, After: f.after, Limit: f.limit})
		} else {
			for id, e := range c.All(ctx, f.prefix) {
				if err = e; e == nil && id > f.after {
					page.IDs = append(page.IDs, id)
				}
			}
		}
		if err != nil {
			return err
		}
		if a.json {
			page.IDs = append([]string{}, page.IDs...)
			return a.printJSON(page)
		}
		for _, id := range page.IDs {
			if _, err := fmt.Fprintln(a.env.Out, shownID(id)); err != nil {
				return err
			}
		}
		switch {
		case page.Next != "":
			a.note("rpcdo: there are more: go on with --after %s", shellQuote(page.Next))
		case len(page.IDs) == 0 && f.prefix+f.after != "":
			a.note("rpcdo: the class %s has no such objects", class)
		case len(page.IDs) == 0:
			a.note("rpcdo: the class %s has no objects", class)
		}
		return nil
	})
}

// withClass opens the catalogue of a class for as long as do runs.
func (a *app) withClass(ctx context.Context, f *connection, class string, do func(*durable.Catalogue) error) (err error) {
	b, err := f.open(ctx, a, nil, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	c, err := durable.Open(ctx, b, class)
	if err != nil {
		return f.noClass(class, err)
	}
	defer c.Close()
	return do(c)
}

// noClass says where to look when there is no such class.
func (f *connection) noClass(class string, err error) error {
	if rpc.CodeOf(err) != rpc.NotFound {
		return err
	}
	return failf(rpc.NotFound, "there is no class %q on %s: nobody has served it there yet; `rpcdo objects ls` lists the classes", class, f.where())
}

func (a *app) objectsCall() *cobra.Command {
	f := &callFlags{}
	cmd := &cobra.Command{
		Use:   "call <class> <id> <method> [JSON | -] [flags]",
		Short: "Call a method of an object and print its result",
		Long: `Does the same as "rpcdo call <class>.<method> [JSON | -] --object <id>".

An object that does not exist yet begins to with its first change.`,
		Example: `  rpcdo objects call counter alice increment '{"by":1}'
  rpcdo objects call counter alice value --json`,
		Args: objectCallArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.object = args[1]
			return a.runCall(cmd.Context(), f, append([]string{args[0] + "." + args[2]}, args[3:]...))
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&f.timeout, "timeout", bus.DefaultTimeout, "how long to wait for the answer")
	flags.StringArrayVarP(&f.headers, "header", "H", nil, "metadata to send along, as `NAME=VALUE`; may be repeated")
	flags.BoolVar(&f.noReply, "no-reply", false, "send the call and want no answer; --timeout then bounds how long it may run")
	f.register(cmd)
	return cmd
}

func atMostOneClass(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return nil
	case 1:
		return checkClass(args[0])
	}
	return fmt.Errorf("%d arguments: want one class at most, such as counter", len(args))
}

// oneObject wants a class and an id.
func oneObject(_ *cobra.Command, args []string) error {
	switch {
	case len(args) < 2:
		return errors.New("which object? want a class and an id, such as counter alice")
	case len(args) > 2:
		return fmt.Errorf("%d arguments: want a class and an id; put an id with spaces in quotes", len(args))
	}
	return checkObject(args)
}

// classOrObject wants a class and, if it is one object, an id.
func classOrObject(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return errors.New("which one? want a class, such as counter, or a class and an id, such as counter alice")
	case len(args) > 2:
		return fmt.Errorf("%d arguments: want a class and an id at most; put an id with spaces in quotes", len(args))
	}
	return checkObject(args)
}

func objectCallArgs(_ *cobra.Command, args []string) error {
	switch {
	case len(args) < 3:
		return errors.New("which method of which object? want a class, an id and a method, such as counter alice value")
	case len(args) > 4:
		return fmt.Errorf("%d arguments after the method: want one; put an id with spaces and the JSON in quotes", len(args)-3)
	}
	return checkObject(args)
}

// checkObject checks the class and the id that args begin with.
func checkObject(args []string) error {
	if err := checkClass(args[0]); err != nil {
		return err
	}
	if len(args) > 1 {
		return rpc.ValidateObjectID(args[1])
	}
	return nil
}

func checkClass(name string) error {
	if err := rpc.ValidateService(name); err != nil {
		return errors.New(strings.Replace(err.Error(), "service name", "class", 1))
	}
	return nil
}

// shownID writes an id for people: in quotes when a line could not hold it, or
// would not show where it begins and ends.
func shownID(id string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	if id == "" || strings.TrimSpace(id) != id || id[0] == '"' || strings.ContainsFunc(id, odd) {
		return strconv.Quote(id)
	}
	return id
}
