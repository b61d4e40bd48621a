package ctl

import (
	"strings"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
)

const helpIntro = Program + ` looks after a running vhost-user-vsock, which has to be
started with --control PATH.

Usage:
  ` + Program + ` [options] COMMAND

`

const helpEnd = `
Exit codes: 0 done, 1 failed, 2 wrong command line.
`

// HelpText is what --help prints.
func HelpText() string {
	var b strings.Builder
	b.WriteString(helpIntro + "Commands:\n")
	for _, c := range commands {
		b.WriteString(config.HelpEntry(c.Usage(), c.Help))
	}
	writeFlags(&b, Flags())
	return b.String() + helpEnd
}

// helpText is what the command's --help prints.
func (c *Command) helpText() string {
	var b strings.Builder
	b.WriteString("Usage:\n" + config.HelpEntry(Program+" [options] "+c.Usage(), c.Help))
	writeFlags(&b, c.Flags)
	return b.String()
}

func writeFlags(b *strings.Builder, flags []config.Flag) {
	b.WriteString("\nOptions:\n")
	for _, f := range flags {
		b.WriteString(f.Usage())
	}
}
