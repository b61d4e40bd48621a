package muxer_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// Guest memory goes away with a batch begun: the next driver's ring sees none of it.
func TestFaultLeavesNothingForTheNextDriver(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	v.open(v.listen(52), 1000, 52)
	v.do(func() {
		h := v.driver.Header(1000, 52, csm.OpRW)
		v.driver.Add(h, []byte("hello"))
		gpa := v.mem.Alloc(40<<20, 4096)
		v.tx.Add(virtqueuetest.Segment{Addr: gpa + 36<<20, Len: 44})
		v.tx.Publish()
		if err := v.mem.Shrink(0, 30<<20); err != nil {
			t.Error(err)
		}
		v.m.Kick(1)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no fault in guest memory")
				}
			}()
			v.m.Work()
		}()
		v.m.StopQueue(0)
		v.m.StopQueue(1)
		v.m.Reset()
		v.m.Detach()
	})
	mem := virtqueuetest.NewMemory(t, virtqueuetest.Extent{GuestAddr: 1 << 20, Size: 1 << 20})
	table := mem.Table(t)
	rx := virtqueuetest.NewRing(t, mem, virtqueuetest.Options{Size: 128, EventIdx: true, Indirect: true})
	tx := virtqueuetest.NewRing(t, mem, virtqueuetest.Options{Size: 128, EventIdx: true, Indirect: true})
	v.do(func() {
		v.m.Attach()
		for i, r := range []*virtqueuetest.Ring{rx, tx} {
			q, err := virtqueue.New(table, r.Config(), 0)
			if err != nil {
				t.Error(err)
				return
			}
			v.m.StartQueue(i, q)
		}
	})
	v.do(func() {})
	v.do(func() {})
	if n := tx.UsedIdx(); n != 0 {
		t.Errorf("a new driver that sent nothing finds %d used entries in its tx ring", n)
	}
	v.do(v.stopAll) // its memory goes before the loop ends
}

// A program shuts its receiving side over an OK that it never reads: nothing
// but a write tells.
func TestHostStopsReadingBeforeItsOK(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	l := v.guest().Listen(52)
	s := v.client("CONNECT 52\n")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	v.count("ok", &v.stats.Handshakes[muxer.HandshakeOK], 1)
	if err := s.CloseRead(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.WaitHostShut(csm.ShutdownRcv) }()
	guestWrites(t, c, pattern(1000))
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the guest never hears that nobody reads")
	}
}

// A program that only writes, to a guest that has gone with bytes for it, learns
// in the end that nobody reads.
func TestWriterToATailSeesEPIPE(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	s := v.open(v.listen(52), 1000, 52)
	v.fill(1000, 52)
	v.driver.Send(v.driver.Header(1000, 52, csm.OpRST), nil)
	failed := make(chan error, 1)
	go func() {
		_, err := s.Write(pattern(64 << 20))
		failed <- err
	}()
	select {
	case err := <-failed:
		if !errors.Is(err, unix.EPIPE) {
			t.Errorf("write: %v, want EPIPE", err)
		}
	case <-time.After(patience):
		t.Error("the program writes to nobody for ever")
	}
}
