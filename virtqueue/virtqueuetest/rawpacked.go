package virtqueuetest

import (
	"slices"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// Flags of a packed ring's descriptors, beside Next, Write and Indirect.
const (
	Avail = 1 << 7
	Used  = 1 << 15
)

// PackedDesc is a descriptor of a packed ring as it stands in memory.
type PackedDesc struct {
	Addr  uint64
	Len   uint32
	ID    uint16
	Flags uint16
}

func putPackedDesc(ring guestmem.Span, i int, d PackedDesc) {
	ring.Store64(16*i, d.Addr)
	ring.Store64(16*i+8, uint64(d.Len)|uint64(d.ID)<<32|uint64(d.Flags)<<48)
}

func getPackedDesc(ring guestmem.Span, i int) PackedDesc {
	rest := ring.Load64(16*i + 8)
	return PackedDesc{Addr: ring.Load64(16 * i), Len: uint32(rest), ID: uint16(rest >> 32), Flags: uint16(rest >> 48)}
}

// PutPackedTable writes an indirect table of a packed ring at any guest address.
func (m *Memory) PutPackedTable(gpa uint64, descs ...PackedDesc) {
	p := make([]byte, 16*len(descs))
	for i, d := range descs {
		putPackedDesc(guestmem.NewSpan(p), i, d)
	}
	m.Write(gpa, p)
}

// packed returns the driver of a packed ring, for what other rings do not have.
func (r *Ring) packed() *packedDriver {
	d, ok := r.layout.(*packedDriver)
	if !ok {
		panic("virtqueuetest: not a packed ring")
	}
	return d
}

// PostSlots fills the next slots, marks them available and publishes them as one
// chain, whatever their flags say. The device may have them already.
func (r *Ring) PostSlots(descs ...PackedDesc) {
	d := r.packed()
	for _, desc := range descs {
		d.put(desc)
	}
	id := descs[len(descs)-1].ID
	d.ids = slices.DeleteFunc(d.ids, func(free uint16) bool { return free == id })
	d.post(id, len(descs))
	r.Publish()
}

// NextSlot returns the index of the slot that is filled next.
func (r *Ring) NextSlot() int {
	d := r.packed()
	return d.index(d.next)
}

// SetSlot writes slot i as it is: nothing is marked, nothing is counted.
func (r *Ring) SetSlot(i int, d PackedDesc) { putPackedDesc(r.packed().desc, i, d) }

// Slot returns slot i as it stands in memory.
func (r *Ring) Slot(i int) PackedDesc { return getPackedDesc(r.packed().desc, i) }

// SetDriverEvent writes the driver event suppression area: slot and wrap counter,
// and flags.
func (r *Ring) SetDriverEvent(place, flags uint16) { r.packed().setDriverEvent(place, flags) }

// DeviceEvent returns the device event suppression area.
func (r *Ring) DeviceEvent() (place, flags uint16) {
	used := r.packed().used
	return used.LoadAcquire16(0), used.LoadAcquire16(2)
}
