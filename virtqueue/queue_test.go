package virtqueue_test

import (
	"errors"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem/guestmemtest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

func TestNewRefusesBadRings(t *testing.T) {
	mem := virtqueuetest.NewMemory(t,
		virtqueuetest.Extent{GuestAddr: 0x10000, Size: 0x10000},
		virtqueuetest.Extent{GuestAddr: 0x20000, Size: 0x10000})
	table := mem.Table(t)
	good := virtqueue.Config{Size: 256, Desc: 0x10000, Avail: 0x12000, Used: 0x13000}
	if _, err := virtqueue.New(table, good, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		edit func(*virtqueue.Config)
		want error
	}{
		{"size 0", func(c *virtqueue.Config) { c.Size = 0 }, virtqueue.ErrSize},
		{"negative size", func(c *virtqueue.Config) { c.Size = -256 }, virtqueue.ErrSize},
		{"size 3", func(c *virtqueue.Config) { c.Size = 3 }, virtqueue.ErrSize},
		{"size 65536", func(c *virtqueue.Config) { c.Size = 65536 }, virtqueue.ErrSize},
		{"size 2^32", func(c *virtqueue.Config) { c.Size = 1 << 32 }, virtqueue.ErrSize},
		{"table misaligned", func(c *virtqueue.Config) { c.Desc += 8 }, guestmem.ErrMisaligned},
		{"avail misaligned", func(c *virtqueue.Config) { c.Avail++ }, guestmem.ErrMisaligned},
		{"used misaligned", func(c *virtqueue.Config) { c.Used += 2 }, guestmem.ErrMisaligned},
		{"table crosses regions", func(c *virtqueue.Config) { c.Desc = 0x1fff0 }, guestmem.ErrOutOfRange},
		{"avail crosses regions", func(c *virtqueue.Config) { c.Avail = 0x1fffe }, guestmem.ErrOutOfRange},
		{"used crosses regions", func(c *virtqueue.Config) { c.Used = 0x1fffc }, guestmem.ErrOutOfRange},
		{"table outside", func(c *virtqueue.Config) { c.Desc = 0 }, guestmem.ErrOutOfRange},
		{"avail outside", func(c *virtqueue.Config) { c.Avail = 1<<64 - 2 }, guestmem.ErrOutOfRange},
		{"used outside", func(c *virtqueue.Config) { c.Used = 1<<64 - 4 }, guestmem.ErrOutOfRange},
		{"used_event outside", func(c *virtqueue.Config) { c.Avail = 0x30000 - 4 - 512 }, guestmem.ErrOutOfRange},
		{"avail_event outside", func(c *virtqueue.Config) { c.Used = 0x30000 - 4 - 2048 }, guestmem.ErrOutOfRange},
		{"largest ring does not fit", func(c *virtqueue.Config) { c.Size = 32768 }, guestmem.ErrOutOfRange},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			c.edit(&cfg)
			if q, err := virtqueue.New(table, cfg, 0); q != nil || !errors.Is(err, c.want) {
				t.Errorf("queue %v, error %v; want %v", q, err, c.want)
			}
		})
	}
}

func TestEverySize(t *testing.T) {
	for size := 1; size <= 32768; size *= 2 {
		fillAndEmpty(t, virtqueuetest.Options{Size: size, Start: 65530})
	}
	for _, size := range []int{1, 2, 3, 5, 100, 256, 257, 32767, 32768} {
		fillAndEmpty(t, virtqueuetest.Options{Size: size, Packed: true, Start: uint16(size - 1)})
	}
}

// fillAndEmpty makes three times as many chains available as the ring takes.
func fillAndEmpty(t *testing.T, o virtqueuetest.Options) {
	t.Helper()
	size := o.Size
	r := newRig(t, o)
	seg := r.mem.Out([]byte("x"))
	for range 3 {
		for range size {
			r.ring.Add(seg)
		}
		r.ring.Publish()
		if got := r.q.PendingUpTo(3); got != min(size, 3) {
			t.Fatalf("size %d: %d pending up to 3", size, got)
		}
		if got := r.q.Pending(); got != size || r.q.Empty() {
			t.Fatalf("size %d: %d pending", size, got)
		}
		for range size {
			r.bufs.Reset()
			r.q.Push(r.pop(t).Head, 0)
		}
		if !r.q.Empty() || r.q.Pending() != 0 {
			t.Fatalf("size %d: %d pending", size, r.q.Pending())
		}
		r.q.Publish()
		for range size {
			r.used(t)
		}
		if r.ring.Free() != size {
			t.Fatalf("size %d: %d descriptors came back", size, r.ring.Free())
		}
	}
}

// The parts of a ring need no more than their alignment, and may be the last
// bytes of a region.
func TestRingAtTheEdge(t *testing.T) {
	const size, end = 8, 0x10000
	const avail = end - 6 - 2*size      // up to the last byte
	const used = 2*end - 6 - 8*size - 2 // and to the last but two: it is a multiple of 4
	for _, o := range []virtqueuetest.Options{
		{Size: size, EventIdx: true, Avail: avail, Used: used},
		{Size: size, EventIdx: false, Avail: avail, Used: used},
		{Size: size, EventIdx: true, Avail: 0x8002, Desc: 2*end - 16*size},
		{Size: size, Packed: true, EventIdx: true, Avail: end - 4, Used: 2*end - 4},
		{Size: size - 1, Packed: true, EventIdx: false, Avail: 2*end - 4, Used: end - 4},
		{Size: size + 1, Packed: true, EventIdx: true, Avail: 0x8004, Desc: 2*end - 16*(size+1)},
	} {
		r := newRig(t, o, virtqueuetest.Extent{GuestAddr: 0, Size: end}, virtqueuetest.Extent{GuestAddr: end, Size: end})
		if !o.Packed && r.ring.Config().Avail%4 != 2 {
			t.Error("the available ring is better aligned than it must be")
		}
		for i := range 100 {
			r.ring.Add(r.mem.Out([]byte{byte(i)}))
			r.ring.ArmInterrupt()
			if kicked := r.ring.Kick(); !kicked {
				t.Fatalf("%+v: no kick for entry %d", o, i)
			}
			r.bufs.Reset()
			c := r.pop(t)
			if got := r.readable(c); len(got) != 1 || got[0] != byte(i) {
				t.Fatalf("%+v: read %v in entry %d", o, got, i)
			}
			r.q.Push(c.Head, 0)
			r.q.NotifyIfNeeded()
			r.q.ArmKick()
			if r.used(t).ID != uint32(c.Head) || r.ring.Interrupts() != 1 {
				t.Fatalf("%+v: entry %d did not come back with an interrupt", o, i)
			}
		}
	}
}

func TestBase(t *testing.T) {
	for _, c := range []struct {
		name              string
		base, avail, used uint16
		next              uint16
	}{
		{"fresh ring", 0, 0, 0, 0},
		{"fresh ring with entries", 0, 5, 0, 0},
		{"resumed", 100, 100, 100, 100},
		{"resumed with entries", 100, 120, 100, 100},
		{"base is avail.idx, chains unserved", 100, 100, 90, 90},
		{"the same around zero", 3, 3, 65530, 65530},
		{"a full ring unserved", 300, 300, 44, 44},
		{"entries were added since avail.idx was read", 95, 100, 90, 90},
		{"base before used.idx", 89, 100, 90, 89},
		{"used.idx makes no sense", 100, 100, 101, 100},
		{"used.idx is too far back", 300, 300, 43, 300},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := virtqueuetest.NewMemory(t)
			ring := virtqueuetest.NewRing(t, mem, virtqueuetest.Options{Size: 256})
			ring.SetAvailIdx(c.avail)
			ring.SetUsedIdx(c.used)
			r := startRig(t, mem, ring, uint32(c.base))
			if got := r.q.Base(); got != uint32(c.next) {
				t.Errorf("starts at %d, want %d", got, c.next)
			}
			if got := r.q.UsedIdx(); got != c.used {
				t.Errorf("used ring starts at %d, want %d", got, c.used)
			}
			if got, want := r.q.Pending(), int(c.avail-c.next); got != want {
				t.Errorf("%d pending, want %d", got, want)
			}
		})
	}
}

func TestRebind(t *testing.T) {
	bothLayouts(t, testRebind)
}

func testRebind(t *testing.T, packed bool) {
	r := newRig(t, virtqueuetest.Options{Size: 16, Packed: packed},
		virtqueuetest.Extent{GuestAddr: 0x10000, Size: 0x10000}, virtqueuetest.Extent{GuestAddr: 0x20000, Size: 0x10000})
	add := func(s string) { r.ring.Add(r.mem.Out([]byte(s))); r.ring.Publish() }
	serve := func(want string) {
		t.Helper()
		r.bufs.Reset()
		c := r.pop(t)
		if got := r.readable(c); string(got) != want {
			t.Errorf("read %q, want %q", got, want)
		}
		r.q.Push(c.Head, 0)
		r.q.NotifyIfNeeded()
		r.used(t)
	}
	add("one")
	serve("one")
	add("two")

	// A new table with the same memory: the ring goes on.
	if err := r.q.Rebind(r.mem.Table(t)); err != nil {
		t.Fatal(err)
	}
	r.table.Close()
	serve("two")
	add("three")

	// The ring's region is gone: the queue stands still and touches nothing.
	without, err := guestmem.Map(r.mem.Regions()[1:], r.mem.Fds()[1:])
	if err != nil {
		t.Fatal(err)
	}
	defer without.Close()
	if err := r.q.Rebind(without); !errors.Is(err, guestmem.ErrOutOfRange) {
		t.Errorf("error %v, want %v", err, guestmem.ErrOutOfRange)
	}
	if _, ok := r.q.Pop(&r.bufs); ok || r.q.ArmKick() || r.q.Pending() != 0 {
		t.Error("entries without a ring")
	}
	r.q.Publish()
	r.q.NotifyIfNeeded()
	r.q.Unpop(0)
	if _, ok := r.q.Pop(&r.bufs); ok || r.q.Broken() != nil {
		t.Error("entries without a ring, or a broken one")
	}

	// It is back: nothing was lost.
	if err := without.Add(r.mem.Regions()[0], r.mem.Fds()[0]); err != nil {
		t.Fatal(err)
	}
	if err := r.q.Rebind(without); err != nil {
		t.Fatal(err)
	}
	serve("three")
	if r.ring.Free() != 16 || len(r.lost) != 0 {
		t.Errorf("%d descriptors free, broken by %v", r.ring.Free(), r.lost)
	}
}

func TestRebindAfterUnpop(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		r := newRig(t, virtqueuetest.Options{Packed: packed, Size: 4})
		r.ring.Add(r.mem.Out([]byte("x")))
		r.ring.Publish()
		r.pop(t)
		empty, err := guestmem.Map(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.q.Rebind(empty); err == nil {
			t.Fatal("a ring without memory")
		}
		r.q.Unpop(1)
		if _, ok := r.q.Pop(&r.bufs); ok {
			t.Error("popped without memory")
		}
		if err := r.q.Rebind(r.table); err != nil {
			t.Fatal(err)
		}
		r.pop(t)
	})
}

// A chain that is pushed while the ring is not there touches nothing. A packed
// ring, where nothing can be left out, has it when it is back.
func TestPushWithoutMemory(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		r := newRig(t, virtqueuetest.Options{Size: 4, Packed: packed})
		for range 2 {
			r.ring.Add(r.mem.In(1))
		}
		r.ring.Publish()
		lost := r.pop(t)
		empty, err := guestmem.Map(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.q.Rebind(empty); err == nil {
			t.Fatal("a ring without memory")
		}
		r.q.Push(lost.Head, 0)
		r.q.NotifyIfNeeded()
		if err := r.q.Rebind(r.table); err != nil {
			t.Fatal(err)
		}
		next := r.pop(t)
		r.q.Push(next.Head, 0)
		r.q.NotifyIfNeeded()
		want := []virtqueue.Chain{next}
		if packed {
			want = []virtqueue.Chain{lost, next}
		}
		for _, c := range want {
			if e := r.used(t); e.ID != uint32(c.Head) {
				t.Errorf("used %+v, want head %d", e, c.Head)
			}
		}
	})
}

func TestRingsComeAndGo(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		mem := virtqueuetest.NewMemory(t)
		ring := virtqueuetest.NewRing(t, mem, virtqueuetest.Options{Packed: packed})
		before := guestmemtest.Mappings()
		for range 1000 {
			table, err := guestmem.Map(mem.Regions(), mem.Fds())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := virtqueue.New(table, ring.Config(), ring.Base()); err != nil {
				t.Fatal(err)
			}
			if err := table.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if after := guestmemtest.Mappings(); after != before {
			t.Errorf("%d mappings before, %d after", before, after)
		}
	})
}
