package config

import "strings"

// Program is the name that messages and the help text use.
const Program = "vhost-user-vsock"

// option is one option of the program or of a VM. Help shows what parsing uses,
// the default included.
type option struct {
	name  string
	alias string // a second name, or empty
	arg   string // what help calls the value; empty: the name alone means true
	def   string // the value of an option that is not given; empty: nothing is set
	help  string

	// One of the two puts a value into the configuration: daemon where the
	// option is the program's, vm where it is a VM's.
	daemon func(d *Daemon, value string) error
	vm     func(v *VM, value string) error

	unique bool // two VMs cannot have the same value, so it is no default for all
	flag   bool // of the command line only
	list   bool // it may be given several times, for several values

	// One of the two returns what is in force, to be compared with ==. A change
	// of a live option applies at once; of another one of a VM when its frontend
	// has left, of another one of the program when that starts again.
	ofDaemon func(d *Daemon) any
	ofVM     func(v *VM) any
	live     bool
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
			name: "guest-cid", arg: "CID|FILE", def: "3", unique: true, live: true,
			help: "The guest's context identifier, 3 to 4294967294, or the absolute path of a file that holds it. SIGHUP has the file read again.",
			vm:   func(v *VM, s string) (err error) { v.GuestCID, err = parseCIDSource(s); return err },
			ofVM: func(v *VM) any { return v.GuestCID },
		},
		{
			name: "name", arg: "NAME", unique: true,
			help: "What metrics and log lines call the VM. Default: cid and the CID.",
			vm:   func(v *VM, s string) (err error) { v.Name, err = parseName(s); v.Named = true; return err },
			ofVM: func(v *VM) any { return v.Name },
		},
		{
			name: "socket", alias: "socket-path", arg: "PATH", unique: true,
			help: "Listen here for the frontend. A stale socket file is replaced, a live one or any other file never. It is not needed where the service manager passes the socket on.",
			vm:   func(v *VM, s string) (err error) { v.Socket, err = parseSocketPath(s); return err },
			ofVM: func(v *VM) any { return v.Socket },
		},
		{
			name: "fd", arg: "N", unique: true, flag: true,
			help: "Use this inherited AF_UNIX stream socket in place of --socket. A listening one serves session after session; a connected one serves that session, then the program exits.",
			vm:   func(v *VM, s string) (err error) { v.FD, err = parseFD(s); return err },
			ofVM: func(v *VM) any { return v.FD },
		},
		{
			name: "socket-mode", arg: "MODE", def: "0600",
			help: "Permissions of the --socket file, octal.",
			vm:   func(v *VM, s string) (err error) { v.SocketAccess.Mode, err = parseMode(s); return err },
			ofVM: func(v *VM) any { return v.SocketAccess.Mode },
		},
		{
			name: "socket-owner", arg: "USER[:GROUP]",
			help: "Owner of the --socket file, by name or number.",
			vm:   func(v *VM, s string) error { return v.SocketAccess.setOwner(s) },
			ofVM: func(v *VM) any { return [2]int{v.SocketAccess.UID, v.SocketAccess.GID} },
		},
		{
			name: "packed",
			help: "Offer packed rings (VIRTIO_F_RING_PACKED) beside split ones. QEMU uses them with packed=on, User-Mode Linux always.",
			vm:   func(v *VM, s string) (err error) { v.Packed, err = parseBool(s); return err },
			ofVM: func(v *VM) any { return v.Packed },
		},
		{
			name: "inband-notifications",
			help: "Offer notifications by messages (VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS) for frontends without eventfds. User-Mode Linux then uses nothing else.",
			vm:   func(v *VM, s string) (err error) { v.InBand, err = parseBool(s); return err },
			ofVM: func(v *VM) any { return v.InBand },
		},
	}},
	{"Host programs", []option{
		{
			name: "uds-path", arg: "PATH", unique: true,
			help: "Required. Listen here for host programs, which send \"CONNECT <port>\" and a newline to reach a port of the guest. A guest that connects to a port of the host reaches the program listening at PATH_<port>. PATH_seqpacket takes programs that want SOCK_SEQPACKET.",
			vm:   func(v *VM, s string) (err error) { v.UDSPath, err = parseUDSPath(s); return err },
			ofVM: func(v *VM) any { return v.UDSPath },
		},
		{
			name: "uds-mode", arg: "MODE", def: "0600",
			help: "Permissions of the --uds-path file, octal.",
			vm:   func(v *VM, s string) (err error) { v.UDSAccess.Mode, err = parseMode(s); return err },
			ofVM: func(v *VM) any { return v.UDSAccess.Mode },
		},
		{
			name: "uds-owner", arg: "USER[:GROUP]",
			help: "Owner of the --uds-path file, by name or number.",
			vm:   func(v *VM, s string) error { return v.UDSAccess.setOwner(s) },
			ofVM: func(v *VM) any { return [2]int{v.UDSAccess.UID, v.UDSAccess.GID} },
		},
		{
			name: "ok-port", arg: "short|host|guest", def: "short",
			help: "The port that the answer \"OK <port>\" names: the host's, kept to at most five digits; the host's, from 1073741824 on; or the guest's.",
			vm:   func(v *VM, s string) (err error) { v.OKPort, err = parseOKPort(s); return err },
			ofVM: func(v *VM) any { return v.OKPort },
		},
		{
			name: "wait-for-guest", arg: "DURATION", def: "0s", live: true,
			help: "How long, up to 1h, a CONNECT waits for the guest to boot and to listen on the port, where it would else read end of file at once; as in 30s or 5m.",
			vm:   func(v *VM, s string) (err error) { v.WaitForGuest, err = parseWait(s); return err },
			ofVM: func(v *VM) any { return v.WaitForGuest },
		},
	}},
	{"Limits", []option{
		{
			name: "max-connections", arg: "N", def: "4096",
			help: "Connections of a VM open at once. It is lowered, with a warning, where the hard limit of open files is too low.",
			vm:   func(v *VM, s string) (err error) { v.MaxConnections, err = parseCount(s); return err },
			ofVM: func(v *VM) any { return v.MaxConnections },
		},
		{
			name: "max-buffered", arg: "BYTES", def: "256MiB", live: true,
			help: "Bytes from the guest held for host programs that do not read, in bytes or with KiB, MiB or GiB behind the number.",
			vm:   func(v *VM, s string) (err error) { v.MaxBuffered, err = parseBuffered(s); return err },
			ofVM: func(v *VM) any { return v.MaxBuffered },
		},
	}},
	{"Speed", []option{
		{
			name: "poll-us", arg: "N", def: "40",
			help: "For how many microseconds, up to 1000, to look for events before sleeping, where eight in a row came that soon and no more threads than the processors and one want to run. It saves wake-ups and takes a processor that nobody else wants; an idle VM sleeps. 0 looks for none.",
			vm:   func(v *VM, s string) (err error) { v.Poll, err = parsePoll(s); return err },
			ofVM: func(v *VM) any { return v.Poll },
		},
	}},
	{"Log and metrics", []option{
		{
			name: "trace-packets", arg: "FILE", unique: true, live: true,
			help: "Record the VM's packets, with the first 256 bytes of each payload, in this new file for Wireshark, up to 1 GiB. A former FILE becomes FILE.old.",
			vm:   func(v *VM, s string) (err error) { v.Trace, err = parseTrace(s); return err },
			ofVM: func(v *VM) any { return v.Trace },
		},
		{
			name: "log-level", arg: "error|warn|info|debug", def: "info", live: true,
			help:     "The least important lines to print.",
			daemon:   func(d *Daemon, s string) (err error) { d.LogLevel, err = ParseLogLevel(s); return err },
			ofDaemon: func(d *Daemon) any { return d.LogLevel },
		},
		{
			name: "log-format", arg: "text|json", def: "text",
			help:     "How the lines on stderr look.",
			daemon:   func(d *Daemon, s string) (err error) { d.LogFormat, err = parseLogFormat(s); return err },
			ofDaemon: func(d *Daemon) any { return d.LogFormat },
		},
		{
			name: "metrics-addr", arg: "HOST:PORT",
			help:     "Serve /metrics for Prometheus and /healthz here over HTTP. Off unless given.",
			daemon:   func(d *Daemon, s string) (err error) { d.MetricsAddr, err = parseMetricsAddr(s); return err },
			ofDaemon: func(d *Daemon) any { return d.MetricsAddr },
		},
		{
			name:     "pprof",
			help:     "Serve profiles of the program, too, at /debug/pprof/ of --metrics-addr: to find out where its time and memory go.",
			daemon:   func(d *Daemon, s string) (err error) { d.Pprof, err = parseBool(s); return err },
			ofDaemon: func(d *Daemon) any { return d.Pprof },
		},
	}},
	{"Control", []option{
		{
			name: "control", arg: "PATH",
			help:     "Listen here for requests over HTTP that show, add, drain and remove VMs. Who can connect, by the file's mode 0600 the program's own user, can do all that the program can. With it the program may begin without VMs. Off unless given.",
			daemon:   func(d *Daemon, s string) (err error) { d.Control, err = parseSocketPath(s); return err },
			ofDaemon: func(d *Daemon) any { return d.Control },
		},
	}},
	{"Privileges", []option{
		{
			name: "sandbox", arg: "on|off|require", def: "on",
			help:     "Once started, give up files outside the directories of the options, and system calls that are not needed: on, as far as the kernel has means to; require, all of it (Linux 6.12) or do not start. Capabilities that are not needed are given up in any case.",
			daemon:   func(d *Daemon, s string) (err error) { d.Sandbox, err = parseSandbox(s); return err },
			ofDaemon: func(d *Daemon) any { return d.Sandbox },
		},
		{
			name: "runtime-dir", arg: "DIR", list: true,
			help:     "Keep this directory in use, too, for sockets of VMs to come, files with their CIDs, and traces; repeat it for several. The sandbox cannot be widened later.",
			daemon:   func(d *Daemon, s string) error { d.RuntimeDirs = append(d.RuntimeDirs, s); return checkIsDirectory(s) },
			ofDaemon: func(d *Daemon) any { return strings.Join(d.RuntimeDirs, "\x00") },
		},
	}},
}

// setOwner sets who owns the file.
func (a *Access) setOwner(s string) (err error) {
	a.UID, a.GID, err = parseOwner(s)
	return err
}

// eachOption visits the options of the program and of VMs in the order of the
// table, until visit fails.
func eachOption(visit func(o *option) error) error {
	for _, g := range groups {
		for i := range g.options {
			if err := visit(&g.options[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// optionNamed returns the option that has the name, or nil.
func optionNamed(name string) (found *option) {
	_ = eachOption(func(o *option) error {
		if name == o.name || name == o.alias && name != "" {
			found = o
		}
		return nil
	})
	return found
}
