package soak

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// talk is a number of connections on which host and guest do the same things.
type talk struct {
	name        string
	seqpacket   bool
	connections int
	host, guest []script.Step
}

// messages are sizes about the limits on the way: empty ones aside, which a Linux guest
// cannot send, a receive buffer (3732 bytes), a packet (64 KiB), and the window.
var messages = []int{1, 3732, 3733, 64*kib - 1, 64*kib + 1, script.MaxMessage}

// talks returns what happens in a round, with bytes that seed determines.
func talks(seed byte) []talk {
	send := func(n int64) script.Step { return script.Step{Do: script.Send, Bytes: n, Seed: seed} }
	duplex := func(n int64, seed byte) []script.Step {
		return []script.Step{{Do: script.Duplex, Bytes: n, Seed: seed}}
	}
	sendMessages := script.Step{Do: script.SendMessages, Sizes: messages, Seed: seed}
	takeMessages := script.Step{Do: script.ReceiveMessages, Count: len(messages)}
	small := script.Step{Do: script.SendMessages, Sizes: slices.Repeat([]int{0, 64}, 200), Seed: seed}
	takeSmall := script.Step{Do: script.ReceiveMessages, Count: len(small.Sizes)}
	half, drain := script.Step{Do: script.CloseWrite}, script.Step{Do: script.Drain}
	return []talk{
		{"bulk to the guest", false, 1, []script.Step{send(8 * mib), half, drain}, []script.Step{drain}},
		{"bulk to the host", false, 1, []script.Step{drain}, []script.Step{send(8 * mib), half, drain}},
		{"both ways", false, 4, duplex(mib, seed), duplex(mib, seed+1)},
		{"half-close by the host", false, 8, []script.Step{send(100 * kib), half, drain}, []script.Step{drain, send(300 * kib)}},
		{"half-close by the guest", false, 8, []script.Step{drain, send(300 * kib)}, []script.Step{send(100 * kib), half, drain}},
		{"short", false, 64, []script.Step{send(kib), half, drain}, []script.Step{{Do: script.Echo}}},
		{"messages", true, 4, []script.Step{sendMessages, takeMessages}, []script.Step{takeMessages, sendMessages}},
		{"messages half-close", true, 8,
			[]script.Step{sendMessages, half, {Do: script.DrainMessages}}, []script.Step{{Do: script.EchoMessages}}},
		{"small messages", true, 4, []script.Step{small, takeMessages}, []script.Step{takeSmall, sendMessages}},
	}
}

// round does all that there is to do, all at the same time.
func (l lab) round(t *testing.T, seed byte) {
	t.Helper()
	all := []func() error{l.nobody, l.crash(t)}
	for _, k := range talks(seed) {
		all = append(all,
			named(k.name+", from the host", func() error { return l.fromHost(k) }),
			named(k.name+", from the guest", l.fromGuest(t, k)))
	}
	if err := together(all...); err != nil {
		t.Fatal(err)
	}
}

func named(name string, f func() error) func() error {
	return func() error {
		if err := f(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
}

// fromHost has the host connect to the guest.
func (l lab) fromHost(k talk) error {
	port := newPort()
	req := script.Request{Op: script.Listen, Port: port, Seqpacket: k.seqpacket, Steps: k.guest}
	if _, err := l.ask(req); err != nil {
		return err
	}
	host, err := k.run(func() (*net.UnixConn, error) { return l.dial(k.seqpacket, port) })
	if err != nil {
		return err
	}
	guest, err := l.ask(script.Request{Op: script.Reports, Port: port, Count: k.connections})
	if err != nil {
		return err
	}
	return agree(host, guest)
}

// fromGuest returns a function that has the guest connect to the host.
func (l lab) fromGuest(t *testing.T, k talk) func() error {
	t.Helper()
	port := newPort()
	from := l.listen(t, k.seqpacket, port)
	return func() error {
		defer from.Close()
		wait := l.askLater(script.Request{
			Op: script.Dial, Port: port, Seqpacket: k.seqpacket, Steps: k.guest,
			Count: k.connections, Parallel: k.connections,
		})
		host, err := k.run(func() (*net.UnixConn, error) { return accept(from) })
		if err != nil {
			return err
		}
		guest, err := wait()
		if err != nil {
			return err
		}
		return agree(host, guest)
	}
}

func accept(from *net.UnixListener) (*net.UnixConn, error) {
	from.SetDeadline(deadline())
	c, err := from.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return c, errors.Join(vm.PrepareAccepted(c), c.SetDeadline(deadline()))
}

// run does the host's part on connections that come from next.
func (k talk) run(next func() (*net.UnixConn, error)) ([]script.Report, error) {
	reports := make([]script.Report, k.connections)
	var parts []func() error
	for i := range reports {
		c, err := next()
		if err != nil {
			return nil, err
		}
		parts = append(parts, later(func() error {
			reports[i] = script.Run(c, k.host, nil)
			return nil
		}))
	}
	return reports, together(parts...)
}

// agree compares both ends of all connections of a talk. They are all alike, so it does
// not matter which belong together.
func agree(host []script.Report, guest []script.ConnInfo) (err error) {
	for i := range host {
		err = errors.Join(err, script.Agree(host[i], guest[i].Report))
	}
	return err
}

// nobody has both sides connect to ports where nobody listens.
func (l lab) nobody() error {
	const tries = 16
	for range tries {
		c, err := l.Dial(newPort())
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("a guest's port where nobody listens: %v, want end of file", err)
		}
	}
	return l.refused(newPort(), tries)
}

// refused has the guest connect to a port of the host, which must be refused.
func (l lab) refused(port uint32, tries int) error {
	infos, err := l.ask(script.Request{Op: script.Dial, Port: port, Count: tries, Parallel: tries})
	for _, info := range infos {
		if info.Errno != syscall.ECONNRESET {
			err = errors.Join(err, fmt.Errorf("a host's port where nobody listens: %v, want ECONNRESET", info.Err()))
		}
	}
	return err
}
