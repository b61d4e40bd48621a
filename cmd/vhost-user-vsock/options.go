package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// program is the name that messages and the help text use.
const program = "vhost-user-vsock"

// option is one flag of the configuration. Help shows what parsing uses, the
// default included.
type option struct {
	name  string
	alias string // a second name, or empty
	arg   string // what help calls the value; empty: the flag alone means true
	def   string // the value of a flag that is not given; empty: nothing is set
	help  string
	set   func(c *config, value string) error
}

// group is a heading of the help text with its options.
type group struct {
	title   string
	options []option
}

// groups are all options.
var groups = []group{
	{"Guest and frontend (its VMM)", []option{
		{
			name: "guest-cid", arg: "CID|FILE", def: "3",
			help: "The guest's context identifier, 3 to 4294967294, or the absolute path of a file that holds it. SIGHUP has the file read again.",
			set:  func(c *config, v string) (err error) { c.guestCID, err = parseCIDSource(v); return err },
		},
		{
			name: "socket", alias: "socket-path", arg: "PATH",
			help: "Listen here for the frontend. A stale socket file is replaced, a live one or any other file never.",
			set:  func(c *config, v string) (err error) { c.socket, err = parseSocketPath(v); return err },
		},
		{
			name: "fd", arg: "N",
			help: "Use this inherited AF_UNIX stream socket in place of --socket. A listening one serves session after session; a connected one serves that session, then the program exits.",
			set:  func(c *config, v string) (err error) { c.fd, err = parseFD(v); return err },
		},
		{
			name: "socket-mode", arg: "MODE", def: "0600",
			help: "Permissions of the --socket file, octal.",
			set:  func(c *config, v string) (err error) { c.socketAccess.mode, err = parseMode(v); return err },
		},
		{
			name: "socket-owner", arg: "USER[:GROUP]",
			help: "Owner of the --socket file, by name or number.",
			set: func(c *config, v string) (err error) {
				c.socketAccess.uid, c.socketAccess.gid, err = parseOwner(v)
				return err
			},
		},
		{
			name: "packed",
			help: "Offer packed rings (VIRTIO_F_RING_PACKED) beside split ones. QEMU uses them with packed=on, User-Mode Linux always.",
			set:  func(c *config, v string) (err error) { c.packed, err = parseBool(v); return err },
		},
		{
			name: "inband-notifications",
			help: "Offer notifications by messages (VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS) for frontends without eventfds. User-Mode Linux then uses nothing else.",
			set:  func(c *config, v string) (err error) { c.inBand, err = parseBool(v); return err },
		},
	}},
	{"Host programs", []option{
		{
			name: "uds-path", arg: "PATH",
			help: "Required. Listen here for host programs, which send \"CONNECT <port>\" and a newline to reach a port of the guest. A guest that connects to a port of the host reaches the program listening at PATH_<port>. PATH_seqpacket takes programs that want SOCK_SEQPACKET.",
			set:  func(c *config, v string) (err error) { c.udsPath, err = parseUDSPath(v); return err },
		},
		{
			name: "uds-mode", arg: "MODE", def: "0600",
			help: "Permissions of the --uds-path file, octal.",
			set:  func(c *config, v string) (err error) { c.udsAccess.mode, err = parseMode(v); return err },
		},
		{
			name: "uds-owner", arg: "USER[:GROUP]",
			help: "Owner of the --uds-path file, by name or number.",
			set: func(c *config, v string) (err error) {
				c.udsAccess.uid, c.udsAccess.gid, err = parseOwner(v)
				return err
			},
		},
		{
			name: "ok-port", arg: "short|host|guest", def: "short",
			help: "The port that the answer \"OK <port>\" names: the host's, kept to at most five digits; the host's, from 1073741824 on; or the guest's.",
			set:  func(c *config, v string) (err error) { c.okPort, err = parseOKPort(v); return err },
		},
	}},
	{"Limits", []option{
		{
			name: "max-connections", arg: "N", def: "4096",
			help: "Connections open at once. It is lowered, with a warning, where the hard limit of open files is too low.",
			set:  func(c *config, v string) (err error) { c.maxConnections, err = parseCount(v); return err },
		},
		{
			name: "max-buffered", arg: "BYTES", def: "256MiB",
			help: "Bytes from the guest held for host programs that do not read, in bytes or with KiB, MiB or GiB behind the number.",
			set:  func(c *config, v string) (err error) { c.maxBuffered, err = parseBuffered(v); return err },
		},
	}},
	{"Log and metrics", []option{
		{
			name: "log-level", arg: "error|warn|info|debug", def: "info",
			help: "The least important lines to print.",
			set:  func(c *config, v string) (err error) { c.logLevel, err = parseLogLevel(v); return err },
		},
		{
			name: "log-format", arg: "text|json", def: "text",
			help: "How the lines on stderr look.",
			set:  func(c *config, v string) (err error) { c.logFormat, err = parseLogFormat(v); return err },
		},
		{
			name: "metrics-addr", arg: "HOST:PORT",
			help: "Serve /metrics for Prometheus and /healthz here over HTTP. Off unless given.",
			set:  func(c *config, v string) (err error) { c.metricsAddr, err = parseMetricsAddr(v); return err },
		},
	}},
}

// request is what the command line asks the program to do.
type request int

const (
	serveGuests request = iota
	showHelp
	showVersion
	showCapabilities
)

// switches are the flags that ask for something else than to serve.
var switches = []struct {
	name    string
	help    string
	request request
}{
	{"print-capabilities", "Print what this backend is as JSON and exit, whatever else is given.", showCapabilities},
	{"version", "Print the version and exit.", showVersion},
	{"help", "Print this text and exit.", showHelp},
}

// scan takes the command line apart: what it asks for, and the value of every
// option on it by the option's name. No value is looked at yet.
func scan(args []string) (request, map[string]string, error) {
	// vhost-user.rst: with --print-capabilities other options are ignored, so
	// also those that this program does not know.
	for _, arg := range args {
		if arg == "--print-capabilities" || arg == "-print-capabilities" {
			return showCapabilities, nil, nil
		}
	}
	given := make(map[string]string)
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	on := make([]*bool, len(switches))
	for i, s := range switches {
		on[i] = flags.Bool(s.name, false, "")
	}
	for _, g := range groups {
		for _, o := range g.options {
			note := func(value string) error { return noteValue(given, o.name, value) }
			define := flags.Func
			if o.arg == "" {
				define = flags.BoolFunc
			}
			define(o.name, "", note)
			if o.alias != "" {
				define(o.alias, "", note)
			}
		}
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return showHelp, nil, nil
	case err != nil:
		return 0, nil, twoDashes(err)
	case flags.NArg() > 0:
		return 0, nil, fmt.Errorf("argument %q: every option starts with two dashes; drop it", flags.Arg(0))
	}
	for i, s := range switches {
		if *on[i] {
			return s.request, nil, nil
		}
	}
	return serveGuests, given, nil
}

// noteValue refuses a second, different value, also by an alias: which one
// was meant cannot be told.
func noteValue(given map[string]string, name, value string) error {
	if old, again := given[name]; again && old != value {
		return fmt.Errorf("it already has the value %q; give it once", old)
	}
	given[name] = value
	return nil
}

// twoDashes writes a flag in an error of package flag as the help text does.
func twoDashes(err error) error {
	return errors.New(strings.Replace(err.Error(), " -", " --", 1))
}
