package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// Request is what the command line asks the program to do.
type Request int

const (
	ServeGuests Request = iota
	ShowHelp
	ShowVersion
	ShowCapabilities
)

// CommandLine is a command line taken apart. No value was looked at yet.
type CommandLine struct {
	Request Request

	flags section   // options that stand alone
	vms   []section // each --vm
	file  string    // --config, or empty
}

// flags of the command line that are no options: they say where options are.
const (
	vmFlag     = "vm"
	configFlag = "config"
)

// several are these flags as the help text shows them.
var several = []struct{ name, arg, help string }{
	{vmFlag, "KEY=VALUE[,...]", "One VM of several; repeat it for each. Keys are the names of the options above; one that takes no value may stand alone, and a comma in a value is doubled. Options beside it hold for every VM that does not say otherwise, but those that no two VMs can share."},
	{configFlag, "FILE", "Read VMs and options from this YAML file, and again on SIGHUP. Options of the program may stand beside it and win."},
}

// switches are the flags that ask for something else than to serve.
var switches = []struct {
	name    string
	help    string
	request Request
}{
	{"print-capabilities", "Print what this backend is as JSON and exit, whatever else is given.", ShowCapabilities},
	{"version", "Print the version and exit.", ShowVersion},
	{"help", "Print this text and exit.", ShowHelp},
}

// ParseArgs takes the command line apart.
func ParseArgs(args []string) (CommandLine, error) {
	// vhost-user.rst: with --print-capabilities other options are ignored, so
	// also those that this program does not know.
	for _, arg := range args {
		if arg == "--print-capabilities" || arg == "-print-capabilities" {
			return CommandLine{Request: ShowCapabilities}, nil
		}
	}
	var c CommandLine
	flags, asked := c.define()
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return CommandLine{Request: ShowHelp}, nil
	case err != nil:
		return CommandLine{}, twoDashes(err)
	case flags.NArg() > 0:
		return CommandLine{}, fmt.Errorf("argument %q: every option starts with two dashes; drop it", flags.Arg(0))
	}
	for i, s := range switches {
		if *asked[i] {
			c.Request = s.request
			break
		}
	}
	return c, nil
}

// define returns a parser that fills c in, and for each of switches whether it
// was given.
func (c *CommandLine) define() (flags *flag.FlagSet, asked []*bool) {
	flags = flag.NewFlagSet(Program, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	for _, s := range switches {
		asked = append(asked, flags.Bool(s.name, false, ""))
	}
	flags.Func(vmFlag, "", func(text string) error {
		s, err := parseVMFlag(text)
		c.vms = append(c.vms, s)
		return err
	})
	flags.Func(configFlag, "", func(file string) error {
		if file == "" || c.file != "" && c.file != file {
			return errors.New("give the path of one file")
		}
		c.file = file
		return nil
	})
	_ = eachOption(func(o *option) error {
		define := flags.Func
		if o.arg == "" {
			define = flags.BoolFunc
		}
		for _, name := range []string{o.name, o.alias} {
			if name != "" {
				define(name, "", func(text string) error { return c.flags.note(o, value{"--" + o.name, text}) })
			}
		}
		return nil
	})
	return flags, asked
}

// twoDashes writes a flag in an error of package flag as the help text does.
func twoDashes(err error) error {
	return errors.New(strings.Replace(err.Error(), " -", " --", 1))
}
