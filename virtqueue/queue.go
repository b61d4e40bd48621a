package virtqueue

import (
	"fmt"
	"math"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// Config says where a ring is and which ring features were negotiated.
type Config struct {
	Size              int    // entries
	Desc, Avail, Used uint64 // guest addresses; of a packed ring: descriptor ring, driver and device event suppression area
	Packed            bool   // VIRTIO_F_RING_PACKED
	EventIdx          bool   // VIRTIO_F_EVENT_IDX
	Indirect          bool   // VIRTIO_F_INDIRECT_DESC
}

// Queue is the device side of one ring.
//
// Fields that are set may be replaced by the owner before the first Pop.
type Queue struct {
	Interrupt func()      // sends the driver a used buffer notification
	OnBroken  func(error) // is called once, with a *RingError, when the ring breaks
	Stats     *Stats

	mem   *guestmem.Table // nil while the ring is not in guest memory
	desc  guestmem.Span   // descriptor table, or descriptor ring
	avail guestmem.Span   // available ring, or driver event suppression area
	used  guestmem.Span   // used ring, or device event suppression area

	trail    *trail             // nil while buffers are not logged
	usedLog  *guestmem.DirtyLog // nil while the ring is not logged
	usedAddr uint64             // Log.UsedAddr

	// Of a split ring.
	size      uint16
	mask      uint16
	nextAvail uint16 // the entry to pop next
	availIdx  uint16 // avail.idx as last read; nextAvail once the ring is broken or unbound
	lead      uint16 // how far nextAvail is ahead of used.idx when no chain is out
	pushed    uint32 // used elements written

	// Used elements, or slots of a packed ring, made visible and considered for a
	// notification. They run on beyond the 16 bits of used.idx, so that a batch of
	// 2^16 is not taken for none.
	published, considered uint32
	notified              bool // since the start

	cfg    Config
	broken error      // a *RingError
	packed packedRing // where cfg.Packed is set
}

// Offsets in the available and the used ring (virtio v1.4 §2.7.6, §2.7.8). The
// event fields follow the last entry.
const (
	offFlags = 0
	offIdx   = 2
	offRing  = 4

	availEntry = 2
	usedElem   = 8
)

// New returns the queue for a ring that starts. base is where it goes on, as
// VHOST_USER_SET_VRING_BASE has it: of a split ring the entry of the available
// ring to pop first, for how far the used ring is comes from memory; of a packed
// ring, slot and wrap counter to pop next in the low half and to use next in the
// high half.
//
// It fails with ErrSize, with ErrBase, or when a part of the ring is misaligned or
// not whole in one region of mem. mem remains the caller's and must outlive the
// queue or be replaced by Rebind.
func New(mem *guestmem.Table, cfg Config, base uint32) (*Queue, error) {
	if cfg.Size < 1 || cfg.Size > 1<<15 || !cfg.Packed && cfg.Size&(cfg.Size-1) != 0 {
		return nil, fmt.Errorf("%w: %d", ErrSize, cfg.Size)
	}
	q := &Queue{
		Interrupt: func() {},
		OnBroken:  func(error) {},
		Stats:     new(Stats),
		cfg:       cfg,
		size:      uint16(cfg.Size),
		mask:      uint16(cfg.Size - 1),
	}
	if err := q.Rebind(mem); err != nil {
		return nil, err
	}
	start := q.startSplit
	if cfg.Packed {
		start = q.startPacked
	}
	if err := start(base); err != nil {
		return nil, err
	}
	return q, nil
}

func (q *Queue) startSplit(base uint32) error {
	if base > math.MaxUint16 {
		return fmt.Errorf("%w: 0x%x", ErrBase, base)
	}
	usedIdx := q.used.LoadAcquire16(offIdx)
	q.pushed = uint32(usedIdx)
	q.published, q.considered = q.pushed, q.pushed
	q.nextAvail = q.firstAvail(uint16(base), usedIdx)
	q.availIdx = q.nextAvail
	q.lead = q.nextAvail - usedIdx
	return nil
}

// firstAvail returns the entry to pop first. cloud-hypervisor gives the driver's
// avail.idx as base, also when it reconnects, and the driver may add to the ring
// after that was read. What lies behind used.idx was made available and never used,
// for chains are completed in order.
func (q *Queue) firstAvail(base, usedIdx uint16) uint16 {
	left := q.avail.LoadAcquire16(offIdx) - usedIdx
	if base-usedIdx <= left && left <= q.size {
		return usedIdx
	}
	return base
}

// Rebind finds the ring again after the memory table changed. When the ring is
// not there any more it fails, and the queue stands still, harmlessly, until a
// Rebind succeeds. It keeps all indices.
func (q *Queue) Rebind(mem *guestmem.Table) error {
	q.mem, q.availIdx = nil, q.nextAvail
	var err error
	if q.desc, err = mem.Span(q.cfg.Desc, uint64(q.cfg.Size)*descriptorSize, 16); err != nil {
		return fmt.Errorf("descriptors: %w", err)
	}
	if q.cfg.Packed {
		err = q.bindPacked(mem)
	} else {
		err = q.bindSplit(mem)
	}
	if err != nil {
		return err
	}
	q.mem = mem
	return nil
}

// bindSplit finds both rings (virtio v1.4 §2.7: sizes and alignments).
func (q *Queue) bindSplit(mem *guestmem.Table) (err error) {
	n := uint64(q.cfg.Size)
	if q.avail, err = mem.Span(q.cfg.Avail, offRing+n*availEntry+2, 2); err != nil {
		return fmt.Errorf("available ring: %w", err)
	}
	if q.used, err = mem.Span(q.cfg.Used, offRing+n*usedElem+2, 4); err != nil {
		return fmt.Errorf("used ring: %w", err)
	}
	return nil
}

// Size returns the number of entries.
func (q *Queue) Size() int { return int(q.size) }

// Base returns where the ring goes on, as VHOST_USER_GET_VRING_BASE has it.
func (q *Queue) Base() uint32 {
	if q.cfg.Packed {
		return q.packed.base()
	}
	return uint32(q.nextAvail)
}

// UsedIdx returns used.idx as the driver sees it. A packed ring has none.
func (q *Queue) UsedIdx() uint16 { return uint16(q.published) }

// Broken returns the *RingError that ended the ring, or nil.
func (q *Queue) Broken() error { return q.broken }

// out returns how many chains were popped and not pushed.
func (q *Queue) out() int {
	if q.cfg.Packed {
		return int(q.packed.popped - q.packed.pushed)
	}
	return int(q.nextAvail - uint16(q.pushed) - q.lead)
}

// stopped reports whether nothing may be popped any more.
func (q *Queue) stopped() bool { return q.mem == nil || q.broken != nil }
