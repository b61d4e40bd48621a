package virtqueuetest

import (
	"math/rand/v2"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// Offsets in the available and the used ring; the event fields follow the last
// entry (virtio v1.4 §2.7.6, §2.7.8).
const (
	offFlags = 0
	offIdx   = 2
	offRing  = 4
)

// splitDriver is the driver of a split ring (virtio v1.4 §2.7).
type splitDriver struct {
	*parts
	unused []uint16 // descriptors in no chain: a stack
	links  []uint16 // what follows a descriptor in its chain, or unused; the driver's own copy
	counts []int    // by head: descriptors of the chain; 0 if it is not with the device

	added    uint16 // chains
	decided  uint16 // added when it was last decided whether to kick
	lastUsed uint16 // elements taken
}

func newSplitDriver(p *parts) *splitDriver {
	d := &splitDriver{
		parts:    p,
		links:    make([]uint16, p.opts.Size),
		counts:   make([]int, p.opts.Size),
		added:    p.opts.Start,
		decided:  p.opts.Start,
		lastUsed: p.opts.Start,
	}
	for i := p.opts.Size - 1; i >= 0; i-- {
		d.unused = append(d.unused, uint16(i))
	}
	d.avail.StoreRelease16(offIdx, p.opts.Start)
	d.used.StoreRelease16(offIdx, p.opts.Start)
	return d
}

func (d *splitDriver) base() uint32 { return uint32(d.opts.Start) }

func (d *splitDriver) free() int { return len(d.unused) }

func (d *splitDriver) shuffle(rng *rand.Rand) {
	rng.Shuffle(len(d.unused), func(i, j int) { d.unused[i], d.unused[j] = d.unused[j], d.unused[i] })
}

func (d *splitDriver) nextHead() uint16 { return d.unused[len(d.unused)-1] }

func (d *splitDriver) add(chain []Desc) (head uint16) {
	n := len(chain)
	taken := d.unused[len(d.unused)-n:] // the last is the head
	head = taken[n-1]
	for i, c := range chain {
		index, link := taken[n-1-i], uint16(0)
		if i < n-1 {
			link = taken[n-2-i]
			c.Flags |= Next
			c.Next = link
		}
		putDesc(d.desc, int(index), c)
		d.links[index] = link
	}
	d.unused = d.unused[:len(d.unused)-n]
	d.counts[head] = n
	d.post(head)
	return head
}

// post makes head the next entry of the available ring.
func (d *splitDriver) post(head uint16) {
	d.avail.Store16(offRing+2*(int(d.added)%d.opts.Size), head)
	d.added++
}

func (d *splitDriver) publish() { d.avail.StoreRelease16(offIdx, d.added) }

func (d *splitDriver) availIdx() uint16 { return d.added }

func (d *splitDriver) usedIdx() uint16 { return d.used.LoadAcquire16(offIdx) }

func (d *splitDriver) hasUsed() bool { return d.usedIdx() != d.lastUsed }

func (d *splitDriver) takeUsed() (e Elem, ok bool) {
	if !d.hasUsed() {
		return Elem{}, false
	}
	v := d.used.Load64(offRing + 8*(int(d.lastUsed)%d.opts.Size))
	e = Elem{ID: uint32(v), Len: uint32(v >> 32)}
	d.lastUsed++
	d.release(e.ID)
	return e, true
}

// release frees the descriptors of a chain that the device had. Chains that were
// posted raw have none.
func (d *splitDriver) release(head uint32) {
	if head >= uint32(d.opts.Size) {
		return
	}
	i := uint16(head)
	for ; d.counts[head] > 0; d.counts[head]-- {
		d.unused = append(d.unused, i)
		i = d.links[i]
	}
}

// wantsKick decides as virtio v1.4 §2.7.10.1 has it.
func (d *splitDriver) wantsKick() bool {
	guestmem.Fence() // avail.idx before the device's wish
	added := d.added - d.decided
	d.decided = d.added
	if d.opts.EventIdx {
		event := d.used.LoadAcquire16(offRing + 8*d.opts.Size)
		return d.added-event-1 < added
	}
	return added > 0 && d.used.LoadAcquire16(offFlags)&1 == 0
}

func (d *splitDriver) armInterrupt() {
	if d.opts.EventIdx {
		d.setUsedEvent(d.lastUsed)
	} else {
		d.avail.StoreRelease16(offFlags, 0)
	}
}

// disarmInterrupt asks, with EVENT_IDX, for an interrupt that is 2^16 chains away.
func (d *splitDriver) disarmInterrupt() {
	if d.opts.EventIdx {
		d.setUsedEvent(d.lastUsed - 1)
	} else {
		d.avail.StoreRelease16(offFlags, 1)
	}
}

func (d *splitDriver) setUsedEvent(idx uint16) { d.avail.StoreRelease16(offRing+2*d.opts.Size, idx) }
