package cli

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/nats-io/nats.go/micro"
	"github.com/spf13/cobra"

	"rpc.do"
)

func (a *app) services() *cobra.Command {
	return group(&cobra.Command{
		Use:   "services",
		Short: "Show which services run, what they offer and how they do",
		Long: `Asks the services on the bus about themselves (NATS ADR-32, $SRV) and waits
until no more answers come, a second at most.`,
		Example: `  rpcdo services ls
  rpcdo services info math
  rpcdo services stats --json`,
		GroupID: groupCall,
	}, a.servicesList(), a.servicesInfo(), a.servicesStats())
}

func (a *app) servicesList() *cobra.Command {
	c := &connection{}
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List the services that run",
		Long: `Lists the services that run, one line for each version, with how many instances
and methods it has. Nothing running is no error.`,
		Example: "  rpcdo services ls\n  rpcdo services ls --json --server nats://127.0.0.1:4222",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			deployed, err := a.askInfo(cmd.Context(), c, "")
			if err != nil {
				return err
			}
			if a.json {
				list := make([]listed, 0, len(deployed))
				for _, d := range deployed {
					list = append(list, d.listed())
				}
				return a.printJSON(list)
			}
			if len(deployed) == 0 {
				a.note("rpcdo: no services answered")
				return nil
			}
			return a.printTable(func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "SERVICE\tVERSION\tINSTANCES\tMETHODS\tDESCRIPTION")
				for _, d := range deployed {
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n",
						plain(d.Name), plain(d.Version), len(d.Instances), len(d.Methods), plain(d.Description))
				}
			})
		},
	}
	c.register(cmd)
	return cmd
}

func (a *app) servicesInfo() *cobra.Command {
	c := &connection{}
	cmd := &cobra.Command{
		Use:   "info <service> [flags]",
		Short: "Show the methods of a service",
		Long: `Shows the methods of a service and what they do. With --json it is an array with
one entry for each version that runs, with the JSON Schemas of params and
results.`,
		Example: "  rpcdo services info math\n  rpcdo services info math --json",
		Args:    oneService,
		RunE: func(cmd *cobra.Command, args []string) error {
			deployed, err := a.askInfo(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(deployed)
			}
			return a.printTable(func(w *tabwriter.Writer) {
				for i, d := range deployed {
					if i > 0 {
						fmt.Fprintln(w)
					}
					d.print(w)
				}
			})
		},
	}
	c.register(cmd)
	return cmd
}

func (a *app) servicesStats() *cobra.Command {
	c := &connection{}
	cmd := &cobra.Command{
		Use:   "stats [service] [flags]",
		Short: "Show how many calls the methods had, and how long they took",
		Long: `Shows, for each method, the calls since its instances started: how many, how
many failed, how many run now, and how long they took. Shed are the calls that
were refused, with resource_exhausted, because too many ran and waited; they
count as calls and as errors. What instances counted is added up; percentiles
are those of the slowest instance. A dash is what a service does not tell.`,
		Example: "  rpcdo services stats\n  rpcdo services stats math --json",
		Args:    atMostOneService,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			loads, err := a.askStats(cmd.Context(), c, name)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(loads)
			}
			if len(loads) == 0 {
				a.note("rpcdo: no services answered")
				return nil
			}
			return a.printTable(func(w *tabwriter.Writer) { printLoads(w, loads) })
		},
	}
	c.register(cmd)
	return cmd
}

func oneService(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("want the name of one service, such as math")
	}
	return rpc.ValidateService(args[0])
}

func atMostOneService(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return oneService(cmd, args)
}

func (a *app) askInfo(ctx context.Context, c *connection, service string) ([]*deployed, error) {
	infos, err := ask[micro.Info](ctx, a, c, micro.InfoVerb, service)
	if err != nil {
		return nil, err
	}
	return mergeInfos(infos), nil
}

func (a *app) askStats(ctx context.Context, c *connection, service string) ([]*load, error) {
	stats, err := ask[micro.Stats](ctx, a, c, micro.StatsVerb, service)
	if err != nil {
		return nil, err
	}
	return mergeStats(stats), nil
}

// ask connects and gathers answers. It fails when a service is named and none
// answers.
func ask[T any](ctx context.Context, a *app, c *connection, verb micro.Verb, service string) (answers []T, err error) {
	b, err := c.open(ctx, a, nil, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	got, err := gather[T](ctx, b, verb, service)
	if err != nil {
		return nil, err
	}
	if got.more {
		a.note("rpcdo: there are more services than these: only %d answers were taken", len(got.answers))
	}
	if got.odd > 0 {
		a.note("rpcdo: %d answers could not be read", got.odd)
	}
	if service != "" && len(got.answers) == 0 {
		return nil, failf(rpc.NotFound, "no service %q answered on %s: `rpcdo services ls` shows what runs", service, c.where())
	}
	return got.answers, nil
}
