package virtqueue_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem/guestmemtest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

const pageSize = 4096

// pageLog is a dirty log and the frontend's view of it.
type pageLog struct {
	*guestmem.DirtyLog
	bits []byte
}

// newPageLog maps a log of that many pages, which ends with the test.
func newPageLog(tb testing.TB, pages int) pageLog {
	tb.Helper()
	size := int64(pages / 8)
	fd := guestmemtest.Memfd(tb, size)
	log, err := guestmem.MapDirtyLog(fd, uint64(size), 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { log.Close() })
	return pageLog{log, guestmemtest.Mapped(tb, fd, size)}
}

// marked returns the marked pages, and clears the log.
func (l pageLog) marked() (pages []uint64) {
	for i, b := range l.bits {
		for bit := range uint64(8) {
			if b>>bit&1 != 0 {
				pages = append(pages, 8*uint64(i)+bit)
			}
		}
		l.bits[i] = 0
	}
	return pages
}

// pagesOf returns the pages of the first written bytes of the writable segments.
func pagesOf(segs []virtqueuetest.Segment, written uint64) (pages []uint64) {
	for _, s := range segs {
		if !s.Write {
			continue
		}
		n := min(uint64(s.Len), written)
		for page := s.Addr / pageSize; n > 0 && page <= (s.Addr+n-1)/pageSize; page++ {
			pages = append(pages, page)
		}
		written -= n
	}
	return pages
}

// logged memory: two adjacent regions, a hole, and one more. Indirect tables are
// at its start, where there is room for them before the ring.
var loggedExtents = []virtqueuetest.Extent{
	{GuestAddr: 0x8000, Size: 0x28000}, {GuestAddr: 0x30000, Size: 0x10000}, {GuestAddr: 0x80000, Size: 0x10000},
}

const loggedPages = 0x90000 / pageSize

// The parts of the ring have pages of their own.
const (
	loggedDesc  = 0x10000
	loggedAvail = 0x12000
	loggedUsed  = 0x13000
	loggedRooms = 0x14000 // buffers, up to the hole
)

// ringPages are the pages that the device writes as it uses chains.
func ringPages(packed bool) []uint64 {
	if packed {
		return []uint64{loggedDesc / pageSize, loggedUsed / pageSize}
	}
	return []uint64{loggedUsed / pageSize}
}

func newLoggedRig(t *testing.T, packed, events bool) *rig {
	return newRig(t, virtqueuetest.Options{
		Size: 64, Packed: packed, EventIdx: events, Indirect: true, Start: 60,
		Desc: loggedDesc, Avail: loggedAvail, Used: loggedUsed,
	}, loggedExtents...)
}

func (r *rig) log(l pageLog) virtqueue.Log {
	return virtqueue.Log{Dirty: l.DirtyLog, Buffers: true, Used: true, UsedAddr: r.ring.Config().Used}
}

// pages calls f with each page of the guest's memory.
func (r *rig) pages(f func(page uint64, p []byte)) {
	for _, e := range loggedExtents {
		for a := e.GuestAddr; a < e.GuestAddr+e.Size; a += pageSize {
			f(a/pageSize, r.mem.Bytes(a, pageSize))
		}
	}
}

// TestLogAgainstMemory compares the log with memory before and after: each page
// that the device changed is in it, and no page that it did not write to.
func TestLogAgainstMemory(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		for _, events := range []bool{false, true} {
			t.Run(fmt.Sprintf("events=%v", events), func(t *testing.T) {
				l := &loggedTraffic{rig: newLoggedRig(t, packed, events), rng: rand.New(rand.NewPCG(9, 10))}
				log := newPageLog(t, loggedPages)
				l.q.SetLog(l.log(log))
				before := make([]byte, loggedPages*pageSize)
				for range 300 {
					l.add()
					l.pages(func(page uint64, p []byte) { copy(before[page*pageSize:], p) })
					wrote := l.serve(t)
					allowed := append(wrote, ringPages(packed)...)
					got := log.marked()
					l.pages(func(page uint64, p []byte) {
						if !bytes.Equal(p, before[page*pageSize:][:pageSize]) && !slices.Contains(got, page) {
							t.Fatalf("page 0x%x changed and is not marked", page)
						}
					})
					for _, page := range got {
						if !slices.Contains(allowed, page) {
							t.Fatalf("page 0x%x is marked and was not written", page)
						}
					}
				}
				if log.Lost() != 0 || l.served < 500 {
					t.Errorf("%d pages lost, %d chains served", log.Lost(), l.served)
				}
			})
		}
	})
}

// loggedTraffic is a device that fills chains of random shape, not always whole.
type loggedTraffic struct {
	*rig
	rng  *rand.Rand
	sent [][]virtqueuetest.Segment // with the device, oldest first

	served int // chains
}

// add makes some chains available, whose buffers lie anywhere.
func (l *loggedTraffic) add() {
	for range 1 + l.rng.IntN(6) {
		var segs []virtqueuetest.Segment
		segment := func(write bool) {
			n := l.rng.Uint64N(300)
			if l.rng.IntN(8) == 0 {
				n = l.rng.Uint64N(3 * pageSize)
			}
			addr := loggedRooms + l.rng.Uint64N(0x40000-loggedRooms-n)
			if l.rng.IntN(4) == 0 {
				addr = 0x80000 + l.rng.Uint64N(0x10000-n)
			}
			segs = append(segs, virtqueuetest.Segment{Addr: addr, Len: uint32(n), Write: write})
		}
		for range l.rng.IntN(3) {
			segment(false)
		}
		for range l.rng.IntN(4) {
			segment(true)
		}
		if len(segs) == 0 || len(segs) > l.ring.Free() {
			continue
		}
		l.ring.AddMixed(l.rng.IntN(len(segs)+1), segs...)
		l.sent = append(l.sent, segs)
	}
	l.ring.Publish()
}

// serve pops some chains, gives some back, fills the others in part, and returns
// the pages that it wrote to.
func (l *loggedTraffic) serve(t *testing.T) (wrote []uint64) {
	l.bufs.Reset()
	var chains []virtqueue.Chain
	for range l.rng.IntN(12) {
		if c, ok := l.q.Pop(&l.bufs); ok {
			chains = append(chains, c)
		}
	}
	keep := l.rng.IntN(len(chains) + 1)
	l.q.Unpop(len(chains) - keep)
	for i, c := range chains[:keep] {
		n := 0
		if c.WriteBytes > 0 {
			n = l.rng.IntN(int(c.WriteBytes) + 1)
		}
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(l.rng.Uint32())
		}
		l.bufs.CopyIn(c.Split, c.To, p)
		l.q.Push(c.Head, uint32(n))
		wrote = append(wrote, pagesOf(l.sent[i], uint64(n))...)
		if l.rng.IntN(4) == 0 {
			l.q.Publish()
		}
	}
	l.sent = l.sent[keep:]
	l.served += keep
	l.q.NotifyIfNeeded()
	l.q.ArmKick()
	for range keep {
		l.used(t)
	}
	return wrote
}

// serveOne adds, pops, fills and pushes a chain; between is called in between.
func (r *rig) serveOne(t *testing.T, addr uint64, between func()) {
	t.Helper()
	r.ring.Add(virtqueuetest.Segment{Addr: addr, Len: 100, Write: true})
	r.ring.Publish()
	r.bufs.Reset()
	c := r.pop(t)
	r.bufs.CopyIn(c.Split, c.To, pattern(100))
	between()
	r.q.Push(c.Head, 100)
	r.q.NotifyIfNeeded()
	r.q.ArmKick()
	r.used(t)
}

// What is logged follows the two switches.
func TestLogSwitches(t *testing.T) {
	const room = 0x20000
	bothLayouts(t, func(t *testing.T, packed bool) {
		for _, c := range []struct {
			buffers, used bool
			want          []uint64
		}{
			{false, false, nil},
			{true, false, []uint64{room / pageSize}},
			{false, true, ringPages(packed)},
			{true, true, append(ringPages(packed), room/pageSize)},
		} {
			r := newLoggedRig(t, packed, true)
			log := newPageLog(t, loggedPages)
			l := r.log(log)
			l.Buffers, l.Used = c.buffers, c.used
			r.q.SetLog(l)
			r.serveOne(t, room, func() {})
			if got := log.marked(); !slices.Equal(got, c.want) {
				t.Errorf("buffers %v, used %v: pages %x, want %x", c.buffers, c.used, got, c.want)
			}
			r.q.SetLog(virtqueue.Log{Buffers: true, Used: true})
			r.serveOne(t, room, func() {})
			if got := log.marked(); got != nil {
				t.Errorf("pages %x in a log that was taken back", got)
			}
		}
	})
}

// The used area is logged under the address that was given for it.
func TestLogUsedElsewhere(t *testing.T) {
	const elsewhere = 0x70000
	bothLayouts(t, func(t *testing.T, packed bool) {
		for _, events := range []bool{false, true} {
			r := newLoggedRig(t, packed, events)
			log := newPageLog(t, loggedPages)
			r.q.SetLog(virtqueue.Log{Dirty: log.DirtyLog, Used: true, UsedAddr: elsewhere})
			r.q.ArmKick()
			if got := log.marked(); !slices.Equal(got, []uint64{elsewhere / pageSize}) {
				t.Errorf("events %v: pages %x after ArmKick", events, got)
			}
		}
	})
}

// A chain that was lost while the ring was not there is not waited for.
func TestLogAfterALostChain(t *testing.T) {
	const room = 0x20000
	r := newLoggedRig(t, false, true)
	empty, err := guestmem.Map(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.ring.Add(r.mem.In(1))
	r.ring.Publish()
	lost := r.pop(t)
	r.q.Rebind(empty)
	r.q.Push(lost.Head, 0)
	if err := r.q.Rebind(r.table); err != nil {
		t.Fatal(err)
	}
	log := newPageLog(t, loggedPages)
	r.q.SetLog(virtqueue.Log{Dirty: log.DirtyLog, Buffers: true})
	r.serveOne(t, room, func() {})
	if got := log.marked(); !slices.Equal(got, []uint64{room / pageSize}) {
		t.Errorf("pages %x of the chain behind the lost one", got)
	}
}

// Each element and each index is logged where it is, however long the used ring.
func TestLogLongUsedRing(t *testing.T) {
	const size = 1024 // two pages of elements; avail_event is in the third
	mem := virtqueuetest.NewMemory(t)
	used := mem.Alloc(4*pageSize, pageSize)
	ring := virtqueuetest.NewRing(t, mem, virtqueuetest.Options{Size: size, EventIdx: true, Used: used})
	r := startRig(t, mem, ring, ring.Base())
	log := newPageLog(t, int(used/pageSize+8)/8*8)
	r.q.SetLog(virtqueue.Log{Dirty: log.DirtyLog, Used: true, UsedAddr: used})
	seg := mem.In(1)
	first := used / pageSize
	for i := range size {
		ring.Add(seg)
		ring.Publish()
		r.bufs.Reset()
		r.q.Push(r.pop(t).Head, 0)
		r.q.Publish()
		off := uint64(4 + 8*i) // of the element, which may lie in two pages
		want := []uint64{first, first + off/pageSize, first + (off+7)/pageSize}
		want = slices.Compact(want)
		if got := log.marked(); !slices.Equal(got, want) {
			t.Fatalf("element %d: pages %x, want %x", i, got, want)
		}
	}
	r.q.ArmKick()
	if got := log.marked(); !slices.Equal(got, []uint64{first + 2}) {
		t.Errorf("avail_event: pages %x", got)
	}
}

// A log that is replaced between a write and its push gets the page: the frontend
// reads the old one before it is told that the new one is in use.
func TestLogReplaced(t *testing.T) {
	const room = 0x20000
	bothLayouts(t, func(t *testing.T, packed bool) {
		r := newLoggedRig(t, packed, true)
		before, after := newPageLog(t, loggedPages), newPageLog(t, loggedPages)
		r.q.SetLog(r.log(before))
		r.serveOne(t, room, func() { r.q.SetLog(r.log(after)) })
		if got := before.marked(); got != nil {
			t.Errorf("pages %x in the old log", got)
		}
		if got, want := after.marked(), append(ringPages(packed), room/pageSize); !slices.Equal(got, want) {
			t.Errorf("pages %x in the new log, want %x", got, want)
		}
	})
}

// Where chains are out when logging begins, nobody knows what they write: all is
// marked. Those behind them are logged as ever.
func TestLogBeginsBetweenPopAndPush(t *testing.T) {
	const room, other = 0x20000, 0x80000
	bothLayouts(t, func(t *testing.T, packed bool) {
		for _, back := range []int{0, 1, 2} {
			r := newLoggedRig(t, packed, true)
			log := newPageLog(t, loggedPages)
			r.serveOne(t, room, func() {})
			for range 3 {
				r.ring.Add(virtqueuetest.Segment{Addr: room, Len: 100, Write: true})
			}
			r.ring.Publish()
			r.bufs.Reset()
			heads := []uint16{r.pop(t).Head, r.pop(t).Head, r.pop(t).Head}
			l := r.log(log)
			l.Used = false
			r.q.SetLog(l)
			r.q.Unpop(back)
			for _, head := range heads[:3-back] {
				r.q.Push(head, 100)
				if got := log.marked(); len(got) != loggedPages {
					t.Errorf("%d pages for a chain that nothing is known of", len(got))
				}
			}
			for range back {
				r.q.Push(r.pop(t).Head, 100)
				if got := log.marked(); !slices.Equal(got, []uint64{room / pageSize}) {
					t.Errorf("pages %x for a chain that was popped again", got)
				}
			}
			r.q.Publish()
			for range 3 {
				r.used(t)
			}
			r.serveOne(t, other, func() {})
			if got := log.marked(); !slices.Equal(got, []uint64{other / pageSize}) {
				t.Errorf("pages %x of the next chain", got)
			}
		}
	})
}

// A log that ends and begins again between pops and pushes attributes nothing to
// a wrong chain.
func TestLogTogglesUnderTraffic(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		l := &loggedTraffic{rig: newLoggedRig(t, packed, true), rng: rand.New(rand.NewPCG(11, 12))}
		log := newPageLog(t, loggedPages)
		for round := range 400 {
			on := l.log(log)
			switch round % 4 {
			case 1:
				l.q.SetLog(on)
			case 2:
				on.Buffers = false
				l.q.SetLog(on)
			case 3:
				l.q.SetLog(virtqueue.Log{})
			}
			l.add()
			l.bufs.Reset()
			// One chain is out while the log changes, if there is one.
			c, ok := l.q.Pop(&l.bufs)
			l.q.SetLog(l.log(log))
			log.marked()
			if ok {
				n := uint32(min(c.WriteBytes, 200))
				l.q.Push(c.Head, n)
				got := log.marked()
				for _, page := range pagesOf(l.sent[0], uint64(n)) {
					if !slices.Contains(got, page) {
						t.Fatalf("round %d: page 0x%x was written and is not marked", round, page)
					}
				}
				l.sent = l.sent[1:]
				l.q.Publish()
				l.used(t)
			}
			wrote := l.serve(t)
			got := log.marked()
			for _, page := range wrote {
				if !slices.Contains(got, page) {
					t.Fatalf("round %d: page 0x%x was written and is not marked", round, page)
				}
			}
		}
		if l.served < 500 {
			t.Errorf("%d chains served", l.served)
		}
	})
}

// A log for less than all memory loses pages, and says so.
func TestLogTooSmall(t *testing.T) {
	bothLayouts(t, func(t *testing.T, packed bool) {
		r := newLoggedRig(t, packed, true)
		log := newPageLog(t, 0x30)
		l := r.log(log)
		l.Used = false
		r.q.SetLog(l)
		r.serveOne(t, 0x30000-50, func() {})
		if got := log.marked(); !slices.Equal(got, []uint64{0x2f}) || log.Lost() != 1 {
			t.Errorf("pages %x, %d lost", got, log.Lost())
		}
	})
}
