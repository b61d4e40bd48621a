package config

import (
	"errors"
	"fmt"

	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
	"github.com/vhost-user-vsock/vhost-user-vsock/trace"
)

// checkTogether checks what no VM can check alone; from are the sources of each.
func (d *Daemon) checkTogether(from []vmSources) error {
	names := make(map[string]bool)
	fds := make(map[int]bool)
	for i, v := range d.VMs {
		own := &from[i].own
		switch {
		case names[v.Name]:
			return fmt.Errorf("%s %q: another VM has this name; give each a name of its own", own.at("name"), v.Name)
		case v.FD != NoFD && fds[v.FD]:
			return fmt.Errorf("%s %d: another VM has this descriptor; give each one of its own", own.at("fd"), v.FD)
		}
		if o := sharesTrace(d.VMs[:i], v); o != nil {
			return fmt.Errorf("%s %q: VM %q has %s; give each a file of its own", own.at("trace-packets"), v.Trace, o.Name, o.Trace)
		}
		names[v.Name], fds[v.FD] = true, true
		if err := checkConflicts(d.VMs[:i], v, own); err != nil {
			return err
		}
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

// CheckConflicts returns an error if sockets of v get into the way of those of
// other VMs.
func CheckConflicts(others []VM, v VM) error { return checkConflicts(others, v, &section{}) }

// checkConflicts refuses sockets of v, given in own, that get into the way of
// those of others, or of each other.
func checkConflicts(others []VM, v VM, own *section) error {
	uds, sockets := []string{v.UDSPath}, []string(nil)
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
