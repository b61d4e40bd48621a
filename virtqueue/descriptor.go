package virtqueue

import "github.com/vhost-user-vsock/vhost-user-vsock/guestmem"

// descriptor is a private copy of one descriptor (virtio v1.4 §2.7.5, §2.8.13):
// the guest can change its own while we look at ours.
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16 // in a packed ring, where the next one is adjacent, the buffer id
}

const descriptorSize = 16

// Descriptor flags.
const (
	flagNext     = 1 << 0 // next is valid
	flagWrite    = 1 << 1 // the device writes the buffer, else it reads it
	flagIndirect = 1 << 2 // the buffer is a table of descriptors
)

// readDescriptor reads descriptor i of a split ring's table, once.
func readDescriptor(table guestmem.Span, i int) descriptor {
	return decode(table.Load64(i*descriptorSize), table.Load64(i*descriptorSize+8))
}

// fetch reads the two halves of the descriptor at gpa, once. Indirect tables need
// no alignment and may cross regions.
func fetch(mem *guestmem.Table, gpa uint64) (addr, rest uint64, err error) {
	var raw [descriptorSize]byte
	if err := mem.Read(gpa, raw[:]); err != nil {
		return 0, 0, err
	}
	s := guestmem.NewSpan(raw[:])
	return s.Load64(0), s.Load64(8), nil
}

// decode takes a split ring's descriptor from its two halves.
func decode(addr, rest uint64) descriptor {
	return descriptor{
		addr:  addr,
		len:   uint32(rest),
		flags: uint16(rest >> 32),
		next:  uint16(rest >> 48),
	}
}
