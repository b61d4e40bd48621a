package vhostusertest

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// Indices of the rings of a socket device (virtio v1.4 §5.10.2).
const (
	RxIndex    = 0
	TxIndex    = 1
	EventIndex = 2
)

// GuestOptions describes a guest.
type GuestOptions struct {
	// RingSize is the number of entries of each ring; 0 means what the replayed
	// frontend uses.
	RingSize int
	// Extents are the guest's RAM; none means virtqueuetest.DefaultExtent.
	Extents []virtqueuetest.Extent
	// Features are the bits a driver takes when they are offered; 0 means those
	// of a Linux driver.
	Features uint64
	// Packed lays rings out packed where that is offered and the frontend can.
	Packed bool
	// MoveRings gives each fresh driver rings at new addresses.
	MoveRings bool
}

// Guest is the memory of a guest and the rings of its socket driver.
type Guest struct {
	Memory *virtqueuetest.Memory
	// Rings are the driver's, by index: empty before its first start, and
	// replaced whenever it begins anew.
	Rings []*virtqueuetest.Ring

	tb      testing.TB
	options GuestOptions
	regions []guestmem.Region
	fds     []int     // of regions
	calls   []int     // what we read interrupts of ring i from
	inBand  *Frontend // kicks and interrupts are messages of its; nil: they are not
}

// NewGuest returns a guest without rings. It ends with the test.
func NewGuest(tb testing.TB, o GuestOptions) *Guest {
	tb.Helper()
	if o.Features == 0 {
		o.Features = vhostuser.FeatureVersion1 | vhostuser.FeatureEventIdx | vhostuser.FeatureIndirectDesc
	}
	if o.Packed {
		o.Features |= vhostuser.FeatureRingPacked
	}
	memory := virtqueuetest.NewMemory(tb, o.Extents...)
	return &Guest{tb: tb, Memory: memory, options: o, regions: memory.Regions(), fds: memory.Fds()}
}

// Rx returns the ring towards the guest.
func (g *Guest) Rx() *virtqueuetest.Ring { return g.Rings[RxIndex] }

// Tx returns the ring from the guest.
func (g *Guest) Tx() *virtqueuetest.Ring { return g.Rings[TxIndex] }

// Regions returns the memory as the frontend describes it; region i is in Fds()[i].
func (g *Guest) Regions() []guestmem.Region { return g.regions }

// Fds returns the files of Regions. They remain the guest's.
func (g *Guest) Fds() []int { return g.fds }

// Kick kicks the device for ring index, whether it asked for it or not.
func (g *Guest) Kick(index int) {
	g.tb.Helper()
	if g.inBand != nil {
		g.inBand.withAck(func() { g.inBand.VringKick(uint32(index)) })
		return
	}
	g.Rings[index].ForceKick()
}

// WaitInterrupt waits for an interrupt of ring index, takes all that came, and
// reports whether any did in time.
func (g *Guest) WaitInterrupt(index int, timeout time.Duration) bool {
	g.tb.Helper()
	if g.inBand != nil {
		return g.inBand.WaitCall(index, timeout)
	}
	fd := g.calls[index]
	if !poll(fd, unix.POLLIN, time.Now().Add(timeout)) {
		return false
	}
	var p [64]byte
	n, err := unix.Read(fd, p[:])
	return err == nil && n > 0
}

// split describes each extent as several regions of one file, as QEMU does
// around the hole below 1 MiB: the first has size bytes.
func (g *Guest) split(size uint64) {
	var regions []guestmem.Region
	var fds []int
	for i, r := range g.regions {
		first, rest := r, r
		if size < r.Size {
			first.Size = size
			rest.GuestAddr += size
			rest.UserAddr += size
			rest.Offset += size
			rest.Size -= size
			regions, fds = append(regions, first, rest), append(fds, g.fds[i], g.fds[i])
			continue
		}
		regions, fds = append(regions, r), append(fds, g.fds[i])
	}
	g.regions, g.fds = regions, fds
}

// identity makes user addresses equal to guest addresses, as in UML.
func (g *Guest) identity() {
	for i := range g.regions {
		g.regions[i].UserAddr = g.regions[i].GuestAddr
	}
}

// userAddr translates a guest address to the frontend's.
func (g *Guest) userAddr(gpa uint64) uint64 {
	for _, r := range g.regions {
		if off := gpa - r.GuestAddr; off < r.Size {
			return r.UserAddr + off
		}
	}
	g.tb.Fatalf("0x%x is not guest memory", gpa)
	return 0
}

// probe gives the guest a driver that begins from the start, with n rings. Its
// rings are where the last driver's were, unless the guest's options move them.
func (g *Guest) probe(n, size int, features uint64) {
	g.tb.Helper()
	if g.options.RingSize != 0 {
		size = g.options.RingSize
	}
	rings := make([]*virtqueuetest.Ring, n)
	for i := range rings {
		o := virtqueuetest.Options{
			Size:     size,
			Packed:   features&vhostuser.FeatureRingPacked != 0,
			EventIdx: features&vhostuser.FeatureEventIdx != 0,
			Indirect: features&vhostuser.FeatureIndirectDesc != 0,
		}
		if i < len(g.Rings) && !g.options.MoveRings {
			c := g.Rings[i].Config()
			o.Desc, o.Avail, o.Used = c.Desc, c.Avail, c.Used
			clear(g.Memory.Bytes(o.Desc, 16*uint64(c.Size))) // where a packed ring has its indices
		} else {
			// Pages of their own, so that no part straddles two regions.
			const page = 4096
			o.Desc = g.Memory.Alloc(16*uint64(size), page)
			o.Avail = g.Memory.Alloc(6+2*uint64(size), page)
			o.Used = g.Memory.Alloc(6+8*uint64(size), page)
		}
		rings[i] = virtqueuetest.NewRing(g.tb, g.Memory, o)
	}
	g.Rings = rings
	g.calls = make([]int, n)
	for i, r := range rings {
		g.calls[i] = r.CallFd()
	}
}

// addr returns the payload of VHOST_USER_SET_VRING_ADDR for ring i.
func (g *Guest) addr(i int, log uint64) vhostuser.VringAddr {
	c := g.Rings[i].Config()
	return vhostuser.VringAddr{
		Index: uint32(i),
		Desc:  g.userAddr(c.Desc),
		Used:  g.userAddr(c.Used),
		Avail: g.userAddr(c.Avail),
		Log:   log,
	}
}

// availIdx reads what the driver of ring i has published.
func (g *Guest) availIdx(i int) uint32 {
	return uint32(binary.LittleEndian.Uint16(g.Memory.Bytes(g.Rings[i].Config().Avail+2, 2)))
}

// eventfd returns an eventfd that ends with the test.
func (g *Guest) eventfd() int {
	g.tb.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		g.tb.Fatal("eventfd:", err)
	}
	g.tb.Cleanup(func() { unix.Close(fd) })
	return fd
}
