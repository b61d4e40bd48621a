package virtqueuetest

import (
	"fmt"
	"math/rand/v2"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// packedDriver is the driver of a packed ring (virtio v1.4 §2.8). It counts slots
// since the ring was new: slot n is at n%size, in lap n/size. The device works
// with wrap counters and offsets, so the two check each other.
type packedDriver struct {
	*parts
	ids    []uint16 // buffer ids in no chain: a stack
	counts []int    // by id: slots of the chain; 0 if it is not with the device

	next     uint64 // the slot to fill next
	decided  uint64 // next when it was last decided whether to kick
	lastUsed uint64 // the slot where the next used descriptor will be

	added, taken uint16 // chains

	// Until it is published, the first new chain lacks the flags of its first
	// descriptor, which hides those behind it too.
	hidden   bool
	first    uint64 // its slot
	firstTag uint16 // its flags
}

func newPackedDriver(p *parts) *packedDriver {
	start := uint64(p.opts.Start)
	d := &packedDriver{
		parts: p, counts: make([]int, p.opts.Size), next: start, decided: start, lastUsed: start,
		added: p.opts.Start, taken: p.opts.Start,
	}
	for id := p.opts.Size - 1; id >= 0; id-- {
		d.ids = append(d.ids, uint16(id))
	}
	// What was used before, or is zero, as in a new ring.
	for n := start; n < start+uint64(p.opts.Size); n++ {
		if n >= uint64(p.opts.Size) {
			putPackedDesc(d.desc, d.index(n), PackedDesc{Flags: d.marks(n-uint64(p.opts.Size), Avail|Used, 0)})
		}
	}
	return d
}

// index returns where slot n is in the descriptor ring.
func (d *packedDriver) index(n uint64) int { return int(n % uint64(d.opts.Size)) }

// wrap returns the wrap counter of slot n: 1 in the first lap.
func (d *packedDriver) wrap(n uint64) bool { return n/uint64(d.opts.Size)%2 == 0 }

// marks returns what a descriptor's flags have in slot n where its wrap counter
// is 1, and where it is 0.
func (d *packedDriver) marks(n uint64, one, zero uint16) uint16 {
	if d.wrap(n) {
		return one
	}
	return zero
}

// place returns slot n as the device names it: offset and wrap counter.
func (d *packedDriver) place(n uint64) uint16 { return uint16(d.index(n)) | d.marks(n, 1<<15, 0) }

func (d *packedDriver) base() uint32 {
	start := uint32(d.place(uint64(d.opts.Start)))
	return start | start<<16
}

func (d *packedDriver) free() int { return d.opts.Size - int(d.next-d.lastUsed) }

func (d *packedDriver) shuffle(rng *rand.Rand) {
	rng.Shuffle(len(d.ids), func(i, j int) { d.ids[i], d.ids[j] = d.ids[j], d.ids[i] })
}

func (d *packedDriver) nextHead() uint16 { return d.ids[len(d.ids)-1] }

// add puts the chain into the next slots. The buffer id is in its last descriptor
// (virtio v1.4 §2.8.6); the others have one that is nobody's.
func (d *packedDriver) add(chain []Desc) (id uint16) {
	id = d.nextHead()
	d.ids = d.ids[:len(d.ids)-1]
	for i, c := range chain {
		p := PackedDesc{Addr: c.Addr, Len: c.Len, Flags: c.Flags, ID: id}
		if i < len(chain)-1 {
			p.Flags |= Next
			p.ID = 0xffff
		}
		d.put(p)
	}
	d.post(id, len(chain))
	return id
}

// put fills the next slot and marks it available.
func (d *packedDriver) put(p PackedDesc) {
	p.Flags |= d.marks(d.next, Avail, Used)
	if !d.hidden {
		d.hidden, d.first, d.firstTag = true, d.next, p.Flags
		p.Flags = p.Flags&^(Avail|Used) | d.marks(d.next, 0, Avail|Used) // used in the lap before
	}
	putPackedDesc(d.desc, d.index(d.next), p)
	d.next++
}

// post counts the chain in the last n slots.
func (d *packedDriver) post(id uint16, n int) {
	if int(id) < d.opts.Size {
		d.counts[id] = n
	}
	d.added++
}

func (d *packedDriver) publish() {
	if d.hidden {
		d.hidden = false
		d.desc.StoreRelease16(16*d.index(d.first)+14, d.firstTag)
	}
}

func (d *packedDriver) availIdx() uint16 { return d.added }

// usedAt returns the used descriptor in slot n, if there is one.
func (d *packedDriver) usedAt(n uint64) (p PackedDesc, ok bool) {
	flags := d.desc.LoadAcquire16(16*d.index(n) + 14)
	return getPackedDesc(d.desc, d.index(n)), n < d.next && flags&(Avail|Used) == d.marks(n, Avail|Used, 0)
}

// usedIdx looks for used descriptors beyond those that were taken.
func (d *packedDriver) usedIdx() uint16 {
	idx := d.taken
	for n := d.lastUsed; ; idx++ {
		p, ok := d.usedAt(n)
		if !ok {
			return idx
		}
		n += d.slots(p.ID)
	}
}

// slots returns how many slots the chain takes that the device says it has used.
func (d *packedDriver) slots(id uint16) uint64 {
	if int(id) >= d.opts.Size || d.counts[id] == 0 {
		panic(fmt.Sprintf("virtqueuetest: the device used buffer id %d, which it did not have", id))
	}
	return uint64(d.counts[id])
}

func (d *packedDriver) hasUsed() bool {
	_, ok := d.usedAt(d.lastUsed)
	return ok
}

func (d *packedDriver) takeUsed() (e Elem, ok bool) {
	p, ok := d.usedAt(d.lastUsed)
	if !ok {
		return Elem{}, false
	}
	if (p.Flags&Write != 0) != (p.Len > 0) {
		panic("virtqueuetest: WRITE of a used descriptor does not say whether bytes were written")
	}
	d.lastUsed += d.slots(p.ID)
	d.taken++
	d.counts[p.ID] = 0
	d.ids = append(d.ids, p.ID)
	return Elem{ID: uint32(p.ID), Len: p.Len}, true
}

// Flags of an event suppression area (virtio v1.4 §2.8.10).
const (
	EventEnable  = 0
	EventDisable = 1
	EventDesc    = 2
)

// wantsKick decides as virtio v1.4 §2.8.21.2 has it: a kick for a certain slot is
// due if that slot is one of the new ones.
func (d *packedDriver) wantsKick() bool {
	guestmem.Fence() // descriptors before the device's wish
	from := d.decided
	d.decided = d.next
	place, flags := d.used.LoadAcquire16(0), d.used.LoadAcquire16(2)
	if flags != EventDesc {
		return d.next > from && flags != EventDisable
	}
	for n := from; n < d.next; n++ {
		if d.place(n) == place {
			return true
		}
	}
	return false
}

func (d *packedDriver) armInterrupt() {
	if d.opts.EventIdx {
		d.setDriverEvent(d.place(d.lastUsed), EventDesc)
	} else {
		d.avail.StoreRelease16(2, EventEnable)
	}
}

func (d *packedDriver) disarmInterrupt() { d.avail.StoreRelease16(2, EventDisable) }

func (d *packedDriver) setDriverEvent(place, flags uint16) {
	d.avail.StoreRelease16(0, place)
	d.avail.StoreRelease16(2, flags)
}
