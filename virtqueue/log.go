package virtqueue

import "github.com/vhost-user-vsock/vhost-user-vsock/guestmem"

// Log says what a queue writes to a dirty log. The zero value logs nothing.
type Log struct {
	Dirty    *guestmem.DirtyLog // nil: nothing is logged
	Buffers  bool               // VHOST_F_LOG_ALL: what the device writes into buffers
	Used     bool               // VHOST_VRING_F_LOG: what it writes into the ring
	UsedAddr uint64             // the guest address under which the used area is logged
}

// SetLog replaces the log, of a running queue too. Whatever is pushed from now on
// goes to l: when Push returns its buffers are in the log, when Publish, ArmKick
// or NotifyIfNeeded returns the ring is.
//
// l.Dirty remains the caller's and must outlive the queue or be replaced.
func (q *Queue) SetLog(l Log) {
	q.usedLog, q.usedAddr = nil, l.UsedAddr
	if l.Used {
		q.usedLog = l.Dirty
	}
	switch {
	case l.Dirty == nil || !l.Buffers:
		q.trail = nil
	case q.trail == nil:
		q.trail = &trail{dirty: l.Dirty, unknown: q.out()}
	default:
		q.trail.dirty = l.Dirty
	}
}

// logUsed logs n bytes that were written at off in the used area.
func (q *Queue) logUsed(off, n int) {
	if q.usedLog != nil {
		q.usedLog.Mark(q.usedAddr+uint64(off), uint64(n))
	}
}

// trail remembers where popped chains can be written, until they are pushed. It
// is there while buffers are logged.
type trail struct {
	dirty   *guestmem.DirtyLog
	unknown int    // chains that are out since before the trail began
	rooms   []room // of the chains that are out, oldest first; a mark ends each chain
	first   int    // the first that was not pushed
}

// room is a writable range of guest memory, or a mark.
type room struct {
	addr, len uint64
	mark      bool
}

// pop notes the writable ranges of a chain.
func (t *trail) pop(mem *guestmem.Table, bufs *guestmem.Buffers, c *Chain) {
	for i := c.Split; i < c.To; i++ {
		addr, n := mem.Locate(bufs, i)
		t.rooms = append(t.rooms, room{addr: addr, len: n})
	}
	t.rooms = append(t.rooms, room{mark: true})
}

// unpop forgets the last n chains.
func (t *trail) unpop(n int) {
	for range n {
		last := len(t.rooms) - 1
		if last < t.first {
			t.unknown--
			continue
		}
		for last > t.first && !t.rooms[last-1].mark {
			last--
		}
		t.rooms = t.rooms[:last]
	}
}

// push logs the first written bytes of the oldest chain. Of a chain that was
// popped before the trail began nothing is known: all pages may be written.
func (t *trail) push(written uint32) {
	if t.unknown > 0 {
		t.unknown--
		t.dirty.MarkAll()
		return
	}
	for t.first < len(t.rooms) {
		r := t.rooms[t.first]
		t.first++
		if r.mark {
			break
		}
		n := min(uint64(written), r.len)
		t.dirty.Mark(r.addr, n)
		written -= uint32(n)
	}
	t.compact()
}

// compact drops what was pushed, once that is half of the storage.
func (t *trail) compact() {
	if 2*t.first >= len(t.rooms) {
		t.rooms = t.rooms[:copy(t.rooms, t.rooms[t.first:])]
		t.first = 0
	}
}
