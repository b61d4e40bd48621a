package virtqueuetest

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// UserOffset is how far user addresses are from guest addresses: as OpenVMM has
// it, far above what a processor can address.
const UserOffset = 1 << 52

// Extent is a contiguous part of the guest's RAM, in a memfd of its own.
type Extent struct{ GuestAddr, Size uint64 }

// DefaultExtent is what NewMemory uses when it is given none.
var DefaultExtent = Extent{GuestAddr: 0x100000, Size: 16 << 20}

// Memory is the guest's RAM and a simple allocator in it.
type Memory struct {
	extents []extent
}

type extent struct {
	Extent
	fd   int
	mem  []byte
	next uint64 // offset of the first byte that is not allocated
}

// NewMemory returns memory made of the extents, which end with the test.
func NewMemory(tb testing.TB, extents ...Extent) *Memory {
	tb.Helper()
	if len(extents) == 0 {
		extents = []Extent{DefaultExtent}
	}
	m := &Memory{}
	for _, e := range extents {
		fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
		if err != nil {
			tb.Fatal("memfd_create:", err)
		}
		tb.Cleanup(func() { unix.Close(fd) })
		if err := unix.Ftruncate(fd, int64(e.Size)); err != nil {
			tb.Fatal("ftruncate:", err)
		}
		mem, err := unix.Mmap(fd, 0, int(e.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			tb.Fatal("mmap:", err)
		}
		tb.Cleanup(func() { unix.Munmap(mem) })
		m.extents = append(m.extents, extent{Extent: e, fd: fd, mem: mem})
	}
	return m
}

// Regions describes the memory as a frontend does; region i is in Fds()[i].
func (m *Memory) Regions() []guestmem.Region {
	var regions []guestmem.Region
	for _, e := range m.extents {
		regions = append(regions, guestmem.Region{GuestAddr: e.GuestAddr, Size: e.Size, UserAddr: UserAddr(e.GuestAddr)})
	}
	return regions
}

// Fds returns the memfds. They remain the Memory's.
func (m *Memory) Fds() []int {
	var fds []int
	for _, e := range m.extents {
		fds = append(fds, e.fd)
	}
	return fds
}

// UserAddr returns the frontend's address for a guest address.
func UserAddr(gpa uint64) uint64 { return gpa + UserOffset }

// Table maps the memory as the device does. The mapping ends with the test.
func (m *Memory) Table(tb testing.TB) *guestmem.Table {
	tb.Helper()
	t, err := guestmem.Map(m.Regions(), m.Fds())
	if err != nil {
		tb.Fatal("map guest memory:", err)
	}
	tb.Cleanup(func() {
		if err := t.Close(); err != nil {
			tb.Error("unmap guest memory:", err)
		}
	})
	return t
}

// Alloc returns the guest address of n bytes that nobody else has, zeroed and
// in one extent. There is no way to free them. align is a power of two.
func (m *Memory) Alloc(n, align uint64) uint64 {
	for i := range m.extents {
		e := &m.extents[i]
		gpa := (e.GuestAddr + e.next + align - 1) &^ (align - 1)
		if off := gpa - e.GuestAddr; off <= e.Size && n <= e.Size-off {
			e.next = off + n
			return gpa
		}
	}
	panic(fmt.Sprintf("virtqueuetest: no %d bytes left", n))
}

// Out allocates a segment that the device reads, with p in it.
func (m *Memory) Out(p []byte) Segment {
	s := Segment{Addr: m.Alloc(uint64(len(p)), 1), Len: uint32(len(p))}
	m.Write(s.Addr, p)
	return s
}

// In allocates a segment of n bytes that the device writes.
func (m *Memory) In(n int) Segment {
	return Segment{Addr: m.Alloc(uint64(n), 1), Len: uint32(n), Write: true}
}

// Bytes returns the guest's own view of n bytes, which must be in one extent.
func (m *Memory) Bytes(gpa, n uint64) []byte {
	c := m.chunk(gpa, n)
	if uint64(len(c)) != n {
		panic(fmt.Sprintf("virtqueuetest: %d bytes at 0x%x cross extents", n, gpa))
	}
	return c
}

// Read copies n bytes out of guest memory, across adjacent extents where need be.
func (m *Memory) Read(gpa, n uint64) []byte {
	p := make([]byte, 0, n)
	for uint64(len(p)) < n {
		p = append(p, m.chunk(gpa+uint64(len(p)), n-uint64(len(p)))...)
	}
	return p
}

// Write copies p into guest memory, across adjacent extents where need be.
func (m *Memory) Write(gpa uint64, p []byte) {
	for len(p) > 0 {
		n := copy(m.chunk(gpa, uint64(len(p))), p)
		gpa += uint64(n)
		p = p[n:]
	}
}

// chunk returns the bytes at gpa that are in one extent, at most n.
func (m *Memory) chunk(gpa, n uint64) []byte {
	for i := range m.extents {
		e := &m.extents[i]
		if off := gpa - e.GuestAddr; off < e.Size || off == e.Size && n == 0 {
			return e.mem[off:][:min(n, e.Size-off)]
		}
	}
	panic(fmt.Sprintf("virtqueuetest: 0x%x is not guest memory", gpa))
}

// Shrink cuts the file of extent i down to size bytes, as a hostile frontend can
// at any time: accesses behind it fault.
func (m *Memory) Shrink(i int, size int64) error {
	return unix.Ftruncate(m.extents[i].fd, size)
}
