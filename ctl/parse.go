package ctl

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
)

// commandLine is what ctl is asked to do.
type commandLine struct {
	command *Command // nil: only help is wanted
	args    []string
	control string
	json    bool
	help    bool
	timeout time.Duration
}

// parse takes the arguments behind "ctl" apart. Options may stand before and behind
// the command and its arguments.
func parse(args []string) (commandLine, error) {
	l := commandLine{control: DefaultControl}
	flags := l.define()
	words, err := parseBetween(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		l.help = true
	case err != nil:
		return l, errors.New(strings.Replace(err.Error(), " -", " --", 1)) // as help writes it
	}
	if len(words) == 0 {
		if l.help {
			return l, nil
		}
		return l, fmt.Errorf("no command; give one of %s", names())
	}
	if l.command = commandNamed(words[0]); l.command == nil {
		return l, fmt.Errorf("%q: no such command; give one of %s", words[0], names())
	}
	l.args = words[1:]
	return l, l.check(flags)
}

// names lists the commands.
func names() string {
	var all []string
	for _, c := range commands {
		all = append(all, c.Name)
	}
	return strings.Join(all, ", ")
}

// define returns a parser that fills l in.
func (l *commandLine) define() *flag.FlagSet {
	flags := flag.NewFlagSet(Program, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&l.control, controlFlag.Name, l.control, "")
	flags.BoolVar(&l.json, jsonFlag.Name, false, "")
	flags.BoolVar(&l.help, helpFlag.Name, false, "")
	flags.Func(timeoutFlag.Name, "", func(s string) (err error) {
		l.timeout, err = time.ParseDuration(s)
		if err != nil || l.timeout < 0 {
			return errors.New("not a time; give 0, or a number with ms, s, m or h behind it")
		}
		return nil
	})
	return flags
}

// parseBetween parses flags wherever they stand and returns the words between them.
// Behind "--" all are words.
func parseBetween(flags *flag.FlagSet, args []string) (words []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return words, err
		}
		left := flags.Args()
		if parsed := len(args) - len(left); len(left) == 0 || parsed > 0 && args[parsed-1] == "--" {
			return append(words, left...), nil
		}
		words, args = append(words, left[0]), left[1:]
	}
}

// check finds what the command does not take.
func (l *commandLine) check(flags *flag.FlagSet) (err error) {
	c := l.command
	flags.Visit(func(f *flag.Flag) {
		known := slices.ContainsFunc(c.Flags, func(own config.Flag) bool { return own.Name == f.Name })
		if !known && err == nil {
			err = fmt.Errorf("--%s: nothing for %s; drop it", f.Name, c.Name)
		}
	})
	switch {
	case err != nil || l.help:
		return err
	case len(l.args) < c.least:
		return fmt.Errorf("%s: an argument is missing; give %s", c.Name, c.Usage())
	case len(l.args) > c.most:
		return fmt.Errorf("%s: argument %q is too many; give %s", c.Name, l.args[c.most], c.Usage())
	}
	return nil
}
