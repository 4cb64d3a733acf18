package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"rpc.do"
	"rpc.do/pipeline"
)

func (a *app) deadEdit() *cobra.Command {
	f := &connection{}
	cmd := &cobra.Command{
		Use:   "edit <number> [JSON | -] [flags]",
		Short: "Have a handler have a dead letter again, with other data",
		Long: `Has the handler have the event again, with other data, and takes it out of the
dead letters. The data are the second argument, or what is on stdin when that
is "-". Without it, on a terminal, they are edited in $VISUAL or $EDITOR;
nothing is done when they are left as they were.`,
		Example: `  rpcdo events dead edit 7 '{"name":"Ada"}'
  echo '{"name":"Ada"}' | rpcdo events dead edit 7 -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 2 {
				return fmt.Errorf("%d arguments after the number: want one; put the JSON in quotes", len(args)-1)
			}
			return oneDead(nil, args[:min(len(args), 1)])
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.runDeadEdit(cmd.Context(), f, args) },
	}
	f.register(cmd)
	return cmd
}

func (a *app) runDeadEdit(ctx context.Context, f *connection, args []string) error {
	var data json.RawMessage
	var err error
	switch {
	case len(args) == 2:
		data, err = a.readJSON(ctx, "data", args[1:])
	case !a.env.InTerminal || !a.env.OutTerminal:
		err = usagef("edit opens an editor for the data, and there is no terminal: give them, as JSON or - for stdin")
	}
	if err != nil {
		return err
	}
	return a.withDead(ctx, f, args[0], func(p *pipeline.Pipeline, d pipeline.DeadLetter) error {
		if data == nil {
			if data, err = a.edit(ctx, &d); err != nil {
				return err
			}
		}
		if err := p.RetryDead(ctx, d.ID, data); err != nil {
			return err
		}
		return a.printDoneDead(doneDead{Done: 1}, "retried with other data")
	})
}

// edit has the user edit the data of a dead letter. What is no JSON stays in the
// file that the user wrote.
func (a *app) edit(ctx context.Context, d *pipeline.DeadLetter) (json.RawMessage, error) {
	before := editable(d)
	file, err := os.CreateTemp("", fmt.Sprintf("dead-letter-%d-*.json", d.ID))
	if err != nil {
		return nil, failf(rpc.Unknown, "a file for the editor: %w", err)
	}
	name, keep := file.Name(), false
	defer func() {
		if !keep {
			_ = os.Remove(name) // it is of no more use
		}
	}()
	_, err = file.WriteString(before)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, failf(rpc.Unknown, "a file for the editor: %w", err)
	}
	if err := a.runEditor(ctx, name); err != nil {
		return nil, err
	}
	after, err := os.ReadFile(name)
	if err != nil {
		return nil, failf(rpc.Unknown, "what was edited: %w", err)
	}
	if bytes.Equal(bytes.TrimSpace(after), []byte(strings.TrimSpace(before))) {
		return nil, failf(rpc.Canceled, "the data are as they were: nothing was done; `rpcdo events dead retry %d` retries with them", d.ID)
	}
	if err := checkJSON("data", after); err != nil {
		keep = true
		return nil, failf(rpc.InvalidArgument, "%v; nothing was done, and what you wrote is in %s: correct it, then `rpcdo events dead edit %d - < %[2]s`", err, name, d.ID)
	}
	return after, nil
}

// runEditor runs the user's editor on a file.
func (a *app) runEditor(ctx context.Context, file string) error {
	editor := strings.Fields(a.env.Getenv("VISUAL"))
	if len(editor) == 0 {
		editor = strings.Fields(a.env.Getenv("EDITOR"))
	}
	if len(editor) == 0 {
		return usagef("which editor? set EDITOR, or give the data")
	}
	cmd := exec.CommandContext(ctx, editor[0], append(editor[1:], file)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.env.In, a.env.Out, a.env.Err
	if err := cmd.Run(); err != nil {
		return failf(rpc.Canceled, "the editor %s: %w; nothing was done", editor[0], err)
	}
	return nil
}
