package virtqueuetest

import (
	"encoding/binary"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// Descriptor flags (virtio v1.4 §2.7.5).
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Desc is a descriptor as it stands in memory.
type Desc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16
}

func (s Segment) desc() Desc {
	d := Desc{Addr: s.Addr, Len: s.Len}
	if s.Write {
		d.Flags = Write
	}
	return d
}

func putDesc(table guestmem.Span, i int, d Desc) {
	table.Store64(16*i, d.Addr)
	table.Store64(16*i+8, uint64(d.Len)|uint64(d.Flags)<<32|uint64(d.Next)<<48)
}

// PutTable writes an indirect table at any guest address: it may be unaligned
// and cross extents.
func (m *Memory) PutTable(gpa uint64, descs ...Desc) {
	var p []byte
	for _, d := range descs {
		p = binary.LittleEndian.AppendUint64(p, d.Addr)
		p = binary.LittleEndian.AppendUint32(p, d.Len)
		p = binary.LittleEndian.AppendUint16(p, d.Flags)
		p = binary.LittleEndian.AppendUint16(p, d.Next)
	}
	m.Write(gpa, p)
}

// split returns the driver of a split ring, for what other rings do not have.
func (r *Ring) split() *splitDriver {
	d, ok := r.layout.(*splitDriver)
	if !ok {
		panic("virtqueuetest: not a split ring")
	}
	return d
}

// SetDesc writes descriptor i of a split ring.
func (r *Ring) SetDesc(i uint16, d Desc) { putDesc(r.split().desc, int(i), d) }

// Post makes a chain of a split ring available that starts at descriptor head,
// whatever is there, and publishes it. The chain may be with the device already.
func (r *Ring) Post(head uint16) {
	r.split().post(head)
	r.Publish()
}

// SetAvailIdx publishes idx, true or not; the driver's own count stays.
func (r *Ring) SetAvailIdx(idx uint16) { r.split().avail.StoreRelease16(offIdx, idx) }

// SetAvailEntry writes the entry of the available ring that idx stands for.
func (r *Ring) SetAvailEntry(idx, head uint16) {
	r.split().avail.Store16(offRing+2*(int(idx)%r.opts.Size), head)
}

// SetAvailFlags writes avail.flags.
func (r *Ring) SetAvailFlags(flags uint16) { r.split().avail.StoreRelease16(offFlags, flags) }

// SetUsedEvent writes used_event, the field behind the available ring.
func (r *Ring) SetUsedEvent(idx uint16) { r.split().setUsedEvent(idx) }

// SetUsedIdx writes used.idx, which is the device's.
func (r *Ring) SetUsedIdx(idx uint16) { r.split().used.StoreRelease16(offIdx, idx) }

// SetUsedElem writes the element of the used ring that idx stands for, which is
// the device's.
func (r *Ring) SetUsedElem(idx uint16, e Elem) {
	r.split().used.Store64(offRing+8*(int(idx)%r.opts.Size), uint64(e.ID)|uint64(e.Len)<<32)
}

// UsedFlags returns used.flags.
func (r *Ring) UsedFlags() uint16 { return r.split().used.LoadAcquire16(offFlags) }

// AvailEvent returns avail_event, the field behind the used ring.
func (r *Ring) AvailEvent() uint16 { return r.split().used.LoadAcquire16(offRing + 8*r.opts.Size) }
