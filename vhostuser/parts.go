package vhostuser

import (
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
)

// ringParts are the addresses of a ring's three areas, as the frontend sees them.
type ringParts struct{ Desc, Avail, Used uint64 }

// aligned checks virtio v1.4 §2.7.
func (p ringParts) aligned() bool { return p.Desc%16 == 0 && p.Avail%2 == 0 && p.Used%4 == 0 }

// Sizes of a ring's areas in bytes (virtio v1.4 §2.7), event fields included.
func descBytes(size int) uint64  { return 16 * uint64(size) }
func availBytes(size int) uint64 { return 6 + 2*uint64(size) }
func usedBytes(size int) uint64  { return 6 + 8*uint64(size) }

// translate finds the areas of a ring in guest memory.
func (p ringParts) translate(memory *guestmem.Table, size int) (cfg virtqueue.Config, ok bool) {
	desc, descOK := memory.GuestAddr(p.Desc, descBytes(size))
	avail, availOK := memory.GuestAddr(p.Avail, availBytes(size))
	used, usedOK := memory.GuestAddr(p.Used, usedBytes(size))
	return virtqueue.Config{Size: size, Desc: desc, Avail: avail, Used: used}, descOK && availOK && usedOK
}

// touches reports whether any byte of a ring lies in region.
func (p ringParts) touches(region guestmem.Region, size int) bool {
	shared := func(addr, n uint64) bool {
		return addr-region.UserAddr < region.Size || region.UserAddr-addr < n
	}
	return shared(p.Desc, descBytes(size)) ||
		shared(p.Avail, availBytes(size)) ||
		shared(p.Used, usedBytes(size))
}

// ringLog says whether writes to the used ring are logged, and under which guest
// address.
type ringLog struct {
	on   bool
	addr uint64
}
