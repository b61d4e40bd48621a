package config

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/vhost-user-vsock/vhost-user-vsock/activated"
)

// sources are where the values of a configuration come from, the first of each
// list first.
type sources struct {
	program  []section
	vms      []vmSources
	defaults Defaults
}

// vmSources are those of one VM: its own section, and those with the values that
// all have.
type vmSources struct {
	own      section
	defaults Defaults
}

// Defaults are the sections with the values of options that a VM does not give.
type Defaults []section

// checks are what differs between the first look at a configuration and later
// ones, when a sandbox is in force and descriptors have been handed on.
type checks struct {
	granted Granted
	inherit func(v *VM) error // finds out what FD is
	sockets inheritance
}

// Granted returns an error unless the program can still use a directory so.
type Granted func(dir string, use Use) error

// Load returns what the command line and the file ask for, of a program to which
// the service manager passed sockets on.
func (c *CommandLine) Load(sockets []*activated.Socket) (Daemon, error) {
	check := checks{
		granted: func(string, Use) error { return nil },
		inherit: (*VM).inherit,
		sockets: inheritance{sockets: sockets, start: true},
	}
	d, err := c.load(check)
	if err == nil {
		err = check.sockets.checkAllGiven(&d)
	}
	return d, err
}

// Reload is Load once more for a program that runs by old.
func (c *CommandLine) Reload(old Daemon, granted Granted) (Daemon, error) {
	inherit := func(v *VM) error {
		for _, known := range old.VMs {
			if known.FD == v.FD {
				v.Frontend, v.Socket = known.Frontend, known.Socket
			}
		}
		return nil
	}
	return c.load(checks{granted: granted, inherit: inherit, sockets: inheritance{sockets: old.Sockets, sole: old.sole}})
}

func (c *CommandLine) load(check checks) (Daemon, error) {
	from, err := c.sources()
	if err != nil {
		return Daemon{}, err
	}
	d := Daemon{File: c.file, Defaults: from.defaults, Sockets: check.sockets.sockets, sole: check.sockets.sole}
	err = eachOption(func(o *option) error {
		if o.daemon == nil {
			return nil
		}
		return o.apply(func(text string) error { return o.daemon(&d, text) }, from.program...)
	})
	if err != nil {
		return Daemon{}, err
	}
	if err := check.sockets.giveDaemon(&d); err != nil {
		return Daemon{}, err
	}
	check.sockets.vms = len(from.vms)
	if d.Pprof && d.MetricsAddr == "" {
		return Daemon{}, fmt.Errorf("%s: there is no address to serve it at; give --metrics-addr as well", optionNamed("pprof").given(from.program)[0].at)
	}
	for _, s := range from.vms {
		v, err := s.load(check)
		if err != nil {
			return Daemon{}, err
		}
		d.VMs = append(d.VMs, v)
	}
	if check.sockets.start && len(d.Sockets) > 0 && len(d.VMs) == 1 {
		d.sole = d.VMs[0].Name
	}
	return d, d.checkTogether(from.vms)
}

// sources finds out who says what.
func (c *CommandLine) sources() (sources, error) {
	switch {
	case len(c.vms) > 0 && c.file != "":
		return sources{}, errors.New("--vm: excludes --config; name the VM in the file")
	case c.file != "":
		return c.fileSources()
	case len(c.vms) > 0:
		return c.vmFlagSources()
	case len(c.flags.values["control"]) > 0 && !c.describesVM():
		return c.vmFlagSources() // of none
	}
	return sources{program: []section{c.flags}, vms: []vmSources{{own: c.flags}}}, nil
}

// vmFlagSources are the sources where there are --vm.
func (c *CommandLine) vmFlagSources() (sources, error) {
	err := c.eachFlag(func(o *option, v value) error {
		if !o.unique {
			return nil
		}
		return fmt.Errorf("%s %q: only one VM can have it; give it in a --vm", v.at, v.text)
	})
	from := sources{program: []section{c.flags}, defaults: Defaults{c.flags}}
	for _, s := range c.vms {
		from.vms = append(from.vms, vmSources{own: s, defaults: from.defaults})
	}
	return from, err
}

// fileSources are the sources where there is a file.
func (c *CommandLine) fileSources() (sources, error) {
	err := c.eachFlag(func(o *option, v value) error {
		if o.vm == nil {
			return nil
		}
		return fmt.Errorf("%s %q: excludes --config; give it in the file, for all VMs under %s", v.at, v.text, keyDefaults)
	})
	if err != nil {
		return sources{}, err
	}
	f, err := readFile(c.file)
	from := sources{program: []section{c.flags, f.program}, defaults: Defaults{f.defaults}}
	for _, s := range f.vms {
		from.vms = append(from.vms, vmSources{own: s, defaults: from.defaults})
	}
	return from, err
}

// describesVM reports whether an option stands alone on the command line that only
// one VM can have.
func (c *CommandLine) describesVM() (found bool) {
	_ = c.eachFlag(func(o *option, _ value) error {
		found = found || o.unique
		return nil
	})
	return found
}

// eachFlag visits the options that stand alone on the command line.
func (c *CommandLine) eachFlag(visit func(o *option, v value) error) error {
	return eachOption(func(o *option) error {
		for _, v := range c.flags.values[o.name] {
			if err := visit(o, v); err != nil {
				return err
			}
		}
		return nil
	})
}

// load returns the VM.
func (s *vmSources) load(check checks) (VM, error) {
	v := VM{
		FD:           NoFD,
		SocketAccess: Access{UID: Unchanged, GID: Unchanged},
		UDSAccess:    Access{UID: Unchanged, GID: Unchanged},
	}
	err := eachOption(func(o *option) error {
		if o.vm == nil {
			return nil
		}
		return o.apply(func(text string) error { return o.vm(&v, text) }, append([]section{s.own}, s.defaults...)...)
	})
	if err == nil {
		err = s.own.readCID(&v, check)
	}
	if v.Name == "" {
		v.Name = fmt.Sprintf("cid%d", v.GuestCID.CID)
	}
	if err == nil {
		err = s.own.checkFrontend(&v, check)
	}
	if err == nil {
		err = s.own.checkPaths(&v, check)
	}
	return v, err
}

// checkFrontend checks what no option can check alone.
func (s *section) checkFrontend(v *VM, check checks) error {
	if v.UDSPath == "" {
		return fmt.Errorf("%s: missing; give the path where host programs connect", s.at("uds-path"))
	}
	if err := check.sockets.giveVM(v); err != nil {
		return err
	}
	switch {
	case v.Activated.Socket != nil && v.FD != NoFD:
		return fmt.Errorf("%s %d: excludes %v; drop one of them", s.at("fd"), v.FD, v.Activated.Socket)
	case v.Activated.Socket != nil:
		return nil
	case v.Socket == "" && v.FD == NoFD:
		or := ""
		if !s.inFile {
			or = ", or " + s.option("fd")
		}
		return fmt.Errorf("%s: missing; give the path where the frontend connects%s", s.at("socket"), or)
	case v.FD == NoFD:
		return nil
	}
	for _, name := range []string{"socket", "socket-mode", "socket-owner"} {
		for _, given := range s.values[name] {
			return fmt.Errorf("%s %q: excludes %s, which makes no socket file; drop one of them", given.at, given.text, s.option("fd"))
		}
	}
	if err := check.inherit(v); err != nil {
		return fmt.Errorf("%s %d: %w", s.at("fd"), v.FD, err)
	}
	return nil
}

// checkPaths checks that the program can make the VM's sockets and write its trace.
func (s *section) checkPaths(v *VM, check checks) error {
	for _, p := range v.paths() {
		if p.use == ReadFiles {
			continue // it has been read
		}
		if err := check.granted(p.dir(), p.use); err != nil {
			return fmt.Errorf("%s %q: %w", s.at(p.option), p.path, err)
		}
	}
	return nil
}

// readCID reads the CID where a file holds it.
func (s *section) readCID(v *VM, check checks) (err error) {
	file := v.GuestCID.File
	if file != "" {
		err = check.granted(filepath.Dir(file), ReadFiles)
	}
	if err == nil {
		err = v.GuestCID.read()
	}
	if err != nil {
		return fmt.Errorf("%s %q: %w", s.at("guest-cid"), file, err)
	}
	return nil
}
