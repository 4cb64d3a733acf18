package cli

import (
	"io"

	"github.com/spf13/cobra"
)

// completion writes scripts that have shells complete the commands, their flags
// and the values of these.
func (a *app) completion() *cobra.Command {
	script := func(shell, load string, write func(*cobra.Command, io.Writer) error) *cobra.Command {
		return &cobra.Command{
			Use:     shell,
			Short:   "Print the completion script for " + shell,
			Long:    "Prints the completion script for " + shell + ". The example loads it at once.",
			Example: "  " + load,
			Args:    noArguments,
			RunE:    func(cmd *cobra.Command, _ []string) error { return write(cmd.Root(), a.env.Out) },
		}
	}
	return group(&cobra.Command{
		Use:   "completion",
		Short: "Print a script that completes commands in a shell",
		Long: `Prints a script that completes the commands and flags of rpcdo in a shell. To
have it in every shell, put the line of the example into the shell's start-up
file. The one for bash needs the package bash-completion.`,
		Example: "  source <(rpcdo completion bash)",
	},
		script("bash", "source <(rpcdo completion bash)",
			func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) }),
		script("zsh", "source <(rpcdo completion zsh)",
			func(root *cobra.Command, w io.Writer) error { return root.GenZshCompletion(w) }),
		script("fish", "rpcdo completion fish | source",
			func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) }),
		script("powershell", "rpcdo completion powershell | Out-String | Invoke-Expression",
			func(root *cobra.Command, w io.Writer) error { return root.GenPowerShellCompletionWithDesc(w) }),
	)
}

// help is "rpcdo help": the same as --help, for those who expect a command.
func (a *app) help() *cobra.Command {
	return &cobra.Command{
		Use:     "help [command]",
		Short:   "Show the help of a command",
		Long:    "Shows the help of a command, as --help after it does.",
		Example: "  rpcdo help\n  rpcdo help services ls",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err == nil {
				err = noSuchCommand(found, rest)
			}
			if err != nil {
				return usageError{err}
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}
