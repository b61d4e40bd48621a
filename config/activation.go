package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vhost-user-vsock/vhost-user-vsock/activated"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
)

// SeqpacketSuffix leads from --uds-path to where programs connect that want a
// SOCK_SEQPACKET socket.
const SeqpacketSuffix = "_seqpacket"

// Activated are the sockets of a VM that the service manager made; nil: the program
// makes its own.
type Activated struct {
	Socket, UDS, Seqpacket *activated.Socket
}

// Names returns the names of their descriptors.
func (a *Activated) Names() (names []string) {
	for _, s := range []*activated.Socket{a.Socket, a.UDS, a.Seqpacket} {
		if s != nil {
			names = append(names, s.Name)
		}
	}
	return names
}

// slot is where the program listens, and for what a socket may be inherited.
type slot struct {
	name    string // of the descriptor, behind VM/ where there are several VMs
	network activated.Network
	at      string             // its address by the options; empty: they do not say
	socket  **activated.Socket // holds the inherited one
}

// slots are those of the VM.
func (v *VM) slots() []slot {
	return []slot{
		{"socket", activated.Unix, v.Socket, &v.Activated.Socket},
		{"uds-path", activated.Unix, v.UDSPath, &v.Activated.UDS},
		{"uds-path" + SeqpacketSuffix, activated.UnixPacket, v.UDSPath + SeqpacketSuffix, &v.Activated.Seqpacket},
	}
}

// slots are those of the program itself.
func (d *Daemon) slots() []slot {
	return []slot{
		{"metrics-addr", activated.TCP, d.MetricsAddr, &d.ActivatedMetrics},
	}
}

// of returns the full name of a VM's slot. No VM's name has the separator, and that
// of a descriptor may (systemd.socket(5)).
func (s *slot) of(vm string) string { return vm + "/" + s.name }

// inheritance gives the sockets of the service manager to those they are for: by
// their names, or else by their addresses.
type inheritance struct {
	sockets []*activated.Socket
	vms     int    // how many there are
	sole    string // the VM that was the only one at the start, or empty
	// At the start each socket has to be for something. Later one that is not used
	// waits for a VM that wants it.
	start bool
}

// giveVM gives v the sockets that are for it.
func (in *inheritance) giveVM(v *VM) (err error) {
	for _, slot := range v.slots() {
		names := []string{slot.of(v.Name)}
		if in.vms == 1 || in.sole == v.Name {
			names = append(names, slot.name)
		}
		if *slot.socket, err = in.find(&slot, names, v.FD); err != nil {
			return err
		}
	}
	if s := v.Activated.Socket; s != nil && v.Socket == "" && checkDirectory(s.Path()) == nil {
		v.Socket = s.Path() // else it has another meaning here, or none
	}
	return nil
}

// giveDaemon gives the program the sockets that are for it.
func (in *inheritance) giveDaemon(d *Daemon) (err error) {
	for _, slot := range d.slots() {
		if *slot.socket, err = in.find(&slot, []string{slot.name}, NoFD); err != nil {
			return err
		}
	}
	if d.ActivatedMetrics != nil {
		d.MetricsAddr = d.ActivatedMetrics.Address
	}
	return nil
}

// find returns the socket for a slot that goes by names; nil if there is none. The
// descriptor except is used otherwise.
func (in *inheritance) find(slot *slot, names []string, except int) (found *activated.Socket, err error) {
	for _, s := range in.sockets {
		here := slot.has(s)
		switch {
		case s.FD == except, !here && !slices.Contains(names, s.Name):
		case s.Fault != nil:
			return nil, fmt.Errorf("%v: %w", s, s.Fault)
		case s.Network != slot.network:
			return nil, fmt.Errorf("%v: it is a %s socket, and %s takes a %s one", s, s.Network, slot.name, slot.network)
		case !here && slot.at != "" && s.HasPlace():
			if in.start {
				return nil, fmt.Errorf("%v: its name says %s, which is at %s; make the addresses the same", s, slot.name, slot.at)
			}
		case found != nil:
			return nil, fmt.Errorf("%v: %v is for %s, too; pass on one of them", s, found, slot.name)
		default:
			found = s
		}
	}
	return found, nil
}

// has reports whether a socket is where the options want the slot.
func (slot *slot) has(s *activated.Socket) bool {
	switch {
	case slot.at == "" || !s.HasPlace():
		return false
	case slot.network == activated.TCP || s.Network == activated.TCP:
		return slot.network == s.Network && sameTCP(s.Address, slot.at)
	}
	return hostsock.SamePlace(s.Path(), slot.at)
}

// sameTCP compares the address of a socket with HOST:PORT. A host's name is not
// looked up: it is never the same.
func sameTCP(bound, at string) bool {
	have, err := netip.ParseAddrPort(bound)
	if err != nil {
		return false
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil || port != fmt.Sprint(have.Port()) {
		return false
	}
	if host == "" {
		return have.Addr().IsUnspecified()
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap() == have.Addr()
}

// checkAllGiven returns an error if a socket is for nothing in d.
func (in *inheritance) checkAllGiven(d *Daemon) error {
	var given []*activated.Socket
	var fds []int
	var free []string
	look := func(s *slot, name string) {
		switch {
		case *s.socket != nil:
			given = append(given, *s.socket)
		case s.at == "":
			free = append(free, name)
		default:
			free = append(free, name+" at "+s.at)
		}
	}
	for i := range d.VMs {
		v := &d.VMs[i]
		fds = append(fds, v.FD)
		for _, s := range v.slots() {
			if len(d.VMs) == 1 {
				look(&s, s.name)
			} else {
				look(&s, s.of(v.Name))
			}
		}
	}
	for _, s := range d.slots() {
		look(&s, s.name)
	}
	for _, s := range in.sockets {
		switch {
		case slices.Contains(given, s), slices.Contains(fds, s.FD):
		case s.Fault != nil:
			return fmt.Errorf("%v: %w", s, s.Fault)
		default:
			return fmt.Errorf("%v: it is for nothing here; name it (FileDescriptorName=) or bind it as one of these: %s",
				s, strings.Join(free, ", "))
		}
	}
	return nil
}
