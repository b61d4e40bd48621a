package config

import (
	"errors"
	"fmt"

	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
	"github.com/vhost-user-vsock/vhost-user-vsock/trace"
)

// ErrTaken marks what two VMs cannot both have.
var ErrTaken = errors.New("another VM has it")

// checkTogether checks what no VM can check alone; from are the sources of each.
func (d *Daemon) checkTogether(from []vmSources) error {
	for i, v := range d.VMs {
		if err := checkBeside(d.VMs[:i], d.Control, v, &from[i].own); err != nil {
			return err
		}
	}
	return nil
}

// CheckBeside returns an error if v cannot be beside other VMs, and the control
// socket unless its path is empty. It is ErrTaken or hostsock.ErrConflict unless a path
// cannot be used at all.
func CheckBeside(others []VM, control string, v VM) error {
	return checkBeside(others, control, v, &section{place: "VM", inFile: true})
}

// checkBeside is CheckBeside for a VM that is given in own.
func checkBeside(others []VM, control string, v VM, own *section) error {
	for _, o := range others {
		switch {
		case o.Name == v.Name:
			return fmt.Errorf("%s %q: %w; give each a name of its own", own.at("name"), v.Name, ErrTaken)
		case v.FD != NoFD && o.FD == v.FD:
			return fmt.Errorf("%s %d: %w; give each one of its own", own.at("fd"), v.FD, ErrTaken)
		}
	}
	if err := checkTrace(others, v, own); err != nil {
		return err
	}
	return checkConflicts(others, control, v, own)
}

// CheckTrace returns an error that is ErrTaken if v is to record in a file of another VM.
func CheckTrace(others []VM, v VM) error {
	return checkTrace(others, v, &section{place: "VM " + v.Name, inFile: true})
}

// checkTrace is CheckTrace for a VM that is given in own.
func checkTrace(others []VM, v VM, own *section) error {
	if o := sharesTrace(others, v); o != nil {
		return fmt.Errorf("%s %q: %w: VM %q records in %s; give each a file of its own", own.at("trace-packets"), v.Trace, ErrTaken, o.Name, o.Trace)
	}
	return nil
}

// sharesTrace returns one of others whose trace, or what becomes of a former one, is the
// file of v's.
func sharesTrace(others []VM, v VM) *VM {
	for i, o := range others {
		if v.Trace != "" && (o.Trace == v.Trace || o.Trace == v.Trace+trace.FormerSuffix || v.Trace == o.Trace+trace.FormerSuffix) {
			return &others[i]
		}
	}
	return nil
}

// checkConflicts refuses sockets of v, given in own, that get into the way of
// those of others, of the control socket, or of each other.
func checkConflicts(others []VM, control string, v VM, own *section) error {
	uds, sockets := []string{v.UDSPath}, []string(nil)
	if control != "" {
		sockets = append(sockets, control)
	}
	for _, o := range others {
		uds = append(uds, o.UDSPath)
		if o.Frontend == SocketFile && o.Socket != "" {
			sockets = append(sockets, o.Socket)
		}
	}
	if err := hostsock.CheckConflicts(uds, sockets); err != nil {
		return fmt.Errorf("%s %q: %w", own.at("uds-path"), v.UDSPath, err)
	}
	if v.Socket == "" {
		return nil
	}
	err := hostsock.CheckConflicts(uds, append(sockets, v.Socket))
	switch {
	case err == nil:
		return nil
	case v.Frontend == SocketFile:
		return fmt.Errorf("%s %q: %w", own.at("socket"), v.Socket, err)
	case errors.Is(err, hostsock.ErrConflict):
		return fmt.Errorf("%s %d: %w", own.at("fd"), v.FD, err)
	}
	// The path means nothing here, as for a socket that was made in another mount
	// name space.
	return nil
}
