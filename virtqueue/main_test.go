package virtqueue_test

import (
	"errors"
	"os"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem/guestmemtest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

func TestMain(m *testing.M) { os.Exit(guestmemtest.Main(m)) }

// bothLayouts runs a test with split and with packed rings.
func bothLayouts(t *testing.T, f func(t *testing.T, packed bool)) {
	t.Run("split", func(t *testing.T) { f(t, false) })
	t.Run("packed", func(t *testing.T) { f(t, true) })
}

// rig is a ring with its driver on one side and its device on the other.
type rig struct {
	mem   *virtqueuetest.Memory
	ring  *virtqueuetest.Ring
	table *guestmem.Table
	q     *virtqueue.Queue
	bufs  guestmem.Buffers
	lost  []error // what OnBroken was called with
}

func newRig(tb testing.TB, o virtqueuetest.Options, extents ...virtqueuetest.Extent) *rig {
	tb.Helper()
	mem := virtqueuetest.NewMemory(tb, extents...)
	ring := virtqueuetest.NewRing(tb, mem, o)
	return startRig(tb, mem, ring, ring.Base())
}

// startRig starts the device on a ring that is there.
func startRig(tb testing.TB, mem *virtqueuetest.Memory, ring *virtqueuetest.Ring, base uint32) *rig {
	tb.Helper()
	r := &rig{mem: mem, ring: ring, table: mem.Table(tb)}
	q, err := virtqueue.New(r.table, ring.Config(), base)
	if err != nil {
		tb.Fatal(err)
	}
	q.Interrupt = ring.Interrupt
	q.OnBroken = func(err error) { r.lost = append(r.lost, err) }
	r.q = q
	return r
}

// pop pops a chain that must be there and be good.
func (r *rig) pop(tb testing.TB) virtqueue.Chain {
	tb.Helper()
	c, ok := r.q.Pop(&r.bufs)
	if !ok {
		tb.Fatalf("no chain (broken: %v)", r.q.Broken())
	}
	if c.Err != nil {
		tb.Fatalf("bad chain: %v", c.Err)
	}
	return c
}

// used takes an element that must be in the used ring.
func (r *rig) used(tb testing.TB) virtqueuetest.Elem {
	tb.Helper()
	e, ok := r.ring.Used()
	if !ok {
		tb.Fatal("nothing used")
	}
	return e
}

// spoil makes the next chain one that breaks the ring by ErrIndex.
func (r *rig) spoil() {
	if r.ring.Config().Packed {
		r.ring.PostSlots(virtqueuetest.PackedDesc{Addr: ram, Len: 1, ID: 9999})
	} else {
		r.ring.Post(9999)
	}
}

// readable returns what the device can read of a chain.
func (r *rig) readable(c virtqueue.Chain) []byte {
	p := make([]byte, c.ReadBytes)
	return p[:r.bufs.CopyOut(c.From, c.Split, p)]
}

// wantBroken checks that the ring has just broken by want, and stays so.
func (r *rig) wantBroken(tb testing.TB, want error) {
	tb.Helper()
	before := r.bufs.Len()
	for range 3 {
		if c, ok := r.q.Pop(&r.bufs); ok {
			tb.Fatalf("popped %+v from a ring that should be broken", c)
		}
	}
	if r.bufs.Len() != before {
		tb.Error("a broken ring leaves ranges behind")
	}
	err := r.q.Broken()
	var ringErr *virtqueue.RingError
	if !errors.As(err, &ringErr) || !errors.Is(err, want) {
		tb.Errorf("broken by %v, want a RingError of %v", err, want)
	}
	if len(r.lost) != 1 || r.lost[0] != err {
		tb.Errorf("OnBroken was called with %v", r.lost)
	}
	if r.q.ArmKick() || r.q.Pending() != 0 {
		tb.Error("a broken ring has entries")
	}
	if got := r.q.Stats.Broken.Load(); got != 1 {
		tb.Errorf("%d rings broken", got)
	}
}

// pattern returns n bytes that differ from their neighbours.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8)
	}
	return p
}
