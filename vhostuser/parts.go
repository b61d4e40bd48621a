package vhostuser

import (
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// ringParts are the addresses of a ring's three parts, as the frontend sees them.
// The last two are the available and the used ring, or the event suppression
// areas of driver and device.
type ringParts struct{ Desc, Avail, Used uint64 }

// shape is what the sizes of a ring's parts follow from.
type shape struct {
	size   int  // entries
	packed bool // VIRTIO_F_RING_PACKED
}

// bytes returns the sizes of a ring's parts in bytes (virtio v1.4 §2.7, with the
// event fields, and §2.8.10.1).
func (s shape) bytes() (desc, avail, used uint64) {
	n := uint64(s.size)
	if s.packed {
		return 16 * n, 4, 4
	}
	return 16 * n, 6 + 2*n, 6 + 8*n
}

// aligned checks virtio v1.4 §2.7 and §2.8.10.1.
func (p ringParts) aligned(packed bool) bool {
	avail := uint64(2)
	if packed {
		avail = 4
	}
	return p.Desc%16 == 0 && p.Avail%avail == 0 && p.Used%4 == 0
}

// translate finds the parts of a ring in guest memory.
func (p ringParts) translate(memory *guestmem.Table, s shape) (cfg virtqueue.Config, ok bool) {
	descBytes, availBytes, usedBytes := s.bytes()
	desc, descOK := memory.GuestAddr(p.Desc, descBytes)
	avail, availOK := memory.GuestAddr(p.Avail, availBytes)
	used, usedOK := memory.GuestAddr(p.Used, usedBytes)
	cfg = virtqueue.Config{Size: s.size, Packed: s.packed, Desc: desc, Avail: avail, Used: used}
	return cfg, descOK && availOK && usedOK
}

// touches reports whether any byte of a ring lies in region.
func (p ringParts) touches(region guestmem.Region, s shape) bool {
	shared := func(addr, n uint64) bool {
		return addr-region.UserAddr < region.Size || region.UserAddr-addr < n
	}
	desc, avail, used := s.bytes()
	return shared(p.Desc, desc) || shared(p.Avail, avail) || shared(p.Used, used)
}

// ringLog says whether writes to the used ring are logged, and under which guest
// address.
type ringLog struct {
	on   bool
	addr uint64
}
