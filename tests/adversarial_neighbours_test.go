package tests

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/hostsock"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// neighbour is one of several VMs that this process serves, each with a loop of its
// own.
type neighbour struct {
	*host
	vhostuser vhostuser.Stats
	muxer     muxer.Stats
}

func newNeighbour(t *testing.T) *neighbour {
	t.Helper()
	dir, err := os.MkdirTemp("", "vsock") // a name short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &vm.Daemon{Socket: filepath.Join(dir, "vhost"), UDS: filepath.Join(dir, "vm")}
	n := &neighbour{host: &host{Daemon: d, t: t, pid: os.Getpid()}}
	loop, err := eventloop.New(eventloop.Monotonic())
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	m, err := muxer.New(muxer.Config{
		Loop: loop, Log: log, GuestCID: vm.GuestCID, UDSPath: d.UDS, MaxConnections: 100, MaxBuffered: 16 * mib, OwnSocket: func(string) bool { return false }, Stats: &n.muxer,
	})
	if err != nil {
		t.Fatal(err)
	}
	s := vhostuser.NewServer(vhostuser.Config{Loop: loop, Device: m, Stats: &n.vhostuser})
	loop.SetWorker(s)
	for path, serve := range map[string]func(int) error{d.UDS: m.Listen, d.Socket: s.Listen} {
		l, err := hostsock.Listen(path, hostsock.Options{Mode: 0o600, UID: -1, GID: -1, Type: unix.SOCK_STREAM, Backlog: 128})
		if err != nil {
			t.Fatal(err)
		}
		if err := serve(l.Take()); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, step := range []func() error{loop.Run, s.Close, m.Close, loop.Close} {
			if err := step(); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() { loop.Stop(); <-done })
	return n
}

// faded returns how many sessions have ended because their memory was gone.
func (n *neighbour) faded() uint64 { return n.vhostuser.SessionsEnded[vhostuser.EndMemory].Load() }

// Guest memory that disappears, before it is used and while it is, ends the session
// that has it. Another VM of the same process does not lose a byte.
func TestAdversarialMemoryBesideANeighbour(t *testing.T) {
	t.Parallel()
	victim, other := newNeighbour(t), newNeighbour(t)
	b := other.boot(t)
	g, c := b.dial()
	var stop atomic.Bool
	working := background(func() (bytes int) {
		for ; bytes == 0 || !stop.Load(); bytes += 2 * mib {
			h, g := b.call()
			converse(t, h, g, both(mib, byte(bytes>>21)), both(mib, byte(bytes>>21+1)))
		}
		return bytes
	})
	for _, way := range vanishings {
		t.Run(way.name, func(t *testing.T) {
			within(t, victim.host, func() {
				ended := victim.faded()
				v := victim.victim(victim.t)
				way.strike(v)
				v.frontend.WaitClosed()
				vm.Eventually(t, patience, "the session ended because its memory was gone", func() bool { return victim.faded() == ended+1 })
			})
			victim.mustServe(t)
		})
	}
	t.Run("while it is read", func(t *testing.T) { victim.fadesWhile(t, readPackets) })
	t.Run("while it is written", func(t *testing.T) { victim.fadesWhile(t, writePackets) })
	stop.Store(true)
	t.Logf("%d MiB crossed meanwhile", working()/mib)
	mustWrite(t, g, []byte("all the while"))
	mustReadJust(t, c, []byte("all the while"))
	b.powerOff()
	if n := other.faded(); n != 0 {
		t.Errorf("%d sessions of the neighbour ended", n)
	}
}

// within runs f as a test of its own on h.
func within(t testing.TB, h *host, f func()) {
	before, s := h.t, &scope{TB: t}
	defer func() { h.t = before }()
	defer s.end()
	h.t = s
	f()
}

// fadesWhile shrinks the memory before or while the device goes through it, in
// turns. Bytes that arrived are those that were sent, as far as they came.
func (n *neighbour) fadesWhile(t *testing.T, post func(*vanishingVictim) (arrived func() bool)) {
	rng := rand.New(rand.NewPCG(1, 2))
	before := n.faded()
	const sessions, used = 60, 24 // pages that the device uses in any case
	for i := range sessions {
		within(t, n.host, func() {
			v := n.victim(n.t)
			arrived := post(v)
			begin := sync.OnceFunc(func() {
				v.c.Write(bytesOf(32 * page)) // for receive buffers
				v.memory.Tx().ForceKick()
				v.memory.Rx().ForceKick()
			})
			if i%2 == 0 {
				begin()
				for range rng.IntN(500) { // some microseconds
					v.memory.Tx().UsedIdx()
				}
			}
			if err := v.memory.Memory.Shrink(1, page*rng.Int64N(used)); err != nil {
				t.Fatal(err)
			}
			begin()
			if i%2 == 0 {
				v.frontend.CloseWrite() // the device may have been faster
			}
			v.frontend.WaitClosed()
			if !arrived() {
				t.Error("other bytes arrived than were sent")
			}
		})
	}
	n.mustServe(t)
	lost := n.faded() - before
	t.Logf("%d of %d sessions lost their memory", lost, sessions)
	if lost < sessions/2 {
		t.Error("those at least whose memory was gone before should have")
	}
}

// readPackets has the device read 256 KiB of packets out of fading memory.
func readPackets(v *vanishingVictim) (arrived func() bool) {
	data := bytesOf(window)
	v.memory.Memory.Write(fading.GuestAddr, data)
	for i := range uint64(4) {
		header := v.header(inRAM+i*page, csm.MaxPayload)
		head := uint16(size - 2*i - 2)
		r := v.memory.Tx()
		r.SetDesc(head, with(header, next, head+1))
		r.SetDesc(head+1, at(fading.GuestAddr+i*csm.MaxPayload, csm.MaxPayload))
		r.Post(head)
	}
	read := background(func() []byte { p, _ := io.ReadAll(v.c); return p })
	return func() bool {
		return bytes.HasPrefix(data, read())
	}
}

// writePackets has the device write 256 KiB of packets into fading memory.
func writePackets(v *vanishingVictim) (arrived func() bool) {
	r := v.memory.Rx()
	for i := range uint16(64) {
		r.SetDesc(size-1-i, with(at(fading.GuestAddr+uint64(i)*4*page, 4*page), virtqueuetest.Write, 0))
		r.Post(size - 1 - i)
	}
	return func() bool { return true } // nobody sees what the guest got
}
