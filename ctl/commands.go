package ctl

import (
	"strings"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
)

// Name is the word that asks the program for the client.
const Name = "ctl"

// Program is what messages and help call the client.
const Program = config.Program + " " + Name

// DefaultControl is where the control socket is looked for.
const DefaultControl = "/run/vhost-user-vsock/control.sock"

// Command is one of ctl's commands as it is explained to people.
type Command struct {
	Name    string
	Args    string   // as usage shows them; empty: it takes none
	Choices []string // the words that the argument may be; empty: any
	Help    string   // sentences
	Flags   []config.Flag

	least, most int // how many arguments it takes
	run         func(c *call) error
}

// Usage is how the command is written, without the program.
func (c *Command) Usage() string { return strings.TrimRight(c.Name+" "+c.Args, " ") }

var (
	controlFlag = config.Flag{
		Name: "control", Arg: "PATH", Default: DefaultControl,
		Help: "The socket of the daemon, which has the same option. For vhost-user-vsock@NAME.service give /run/vhost-user-vsock/NAME/control.sock here, and as control in its file.",
	}
	jsonFlag = config.Flag{
		Name: "json",
		Help: "Print the daemon's answer as JSON, for programs. docs/CONTROL.md describes it.",
	}
	timeoutFlag = config.Flag{
		Name: "timeout", Arg: "DURATION",
		Help: "Cut the connections that are left after this time, as in 30s or 5m. Without it, or at 0, they may take as long as they like.",
	}
	helpFlag = config.Flag{Name: "help", Help: "Print help, of a command where one is given, and exit."}
)

var (
	onlyTheirs = []config.Flag{controlFlag, helpFlag}
	withJSON   = []config.Flag{controlFlag, jsonFlag, helpFlag}
	withTime   = []config.Flag{controlFlag, jsonFlag, timeoutFlag, helpFlag}
)

// commands are all commands.
var commands = []Command{
	{
		Name: "vms", Flags: withJSON, run: vms,
		Help: "List the VMs. TX came from the guest, RX went to it, and BUFFER is held for host programs that do not read.",
	},
	{
		Name: "connections", Args: "[VM]", most: 1, Flags: withJSON, run: connections,
		Help: "List the connections of a VM, or of all. CREDIT is how much the guest takes at this moment, WAITS FOR what keeps a connection from going on.",
	},
	{
		Name: "add", Args: "KEY=VALUE[,...]", least: 1, most: 1, Flags: withJSON, run: add,
		Help: "Add a VM. Its options are written as for the daemon's --vm. Relative paths begin in the working directory of ctl. The VM stays until it is removed or the daemon ends; the configuration file is left as it is.",
	},
	{
		Name: "remove", Args: "VM", least: 1, most: 1, Flags: withJSON, run: remove,
		Help: "Remove a VM at once. Its guest gets RSTs, host programs get what is theirs and end of file. A VM of the configuration file comes back when that is read again.",
	},
	{
		Name: "drain", Args: "VM", least: 1, most: 1, Flags: withTime, run: drain,
		Help: "Remove a VM when its last connection has ended. New ones are refused both ways. It returns when the VM is gone; the drain goes on if it is interrupted.",
	},
	{
		Name: "log-level", Args: "[LEVEL]", most: 1, Flags: withJSON, run: logLevel,
		Choices: []string{"error", "warn", "info", "debug"},
		Help:    "Show the level of the least important lines that the daemon logs, or set it until the next reload: error, warn, info or debug.",
	},
	{
		Name: "top", Flags: onlyTheirs, run: top,
		Help: "Watch what flows each second, by VMs and their busiest connections. CREDIT%, BUFFERS% and HOST% are how much of the last second connections waited for the guest to read, for its receive buffers, and for host programs to read: 100 is one that waited all the time. Leave with q. Where the output is no terminal, it shows one second and ends.",
	},
}

// Commands returns all commands in the order of the help text.
func Commands() []Command { return commands }

// Flags returns the flags of all commands, each once.
func Flags() []config.Flag { return withTime }

// commandNamed returns the command that has the name, or nil.
func commandNamed(name string) *Command {
	for i := range commands {
		if commands[i].Name == name {
			return &commands[i]
		}
	}
	return nil
}
