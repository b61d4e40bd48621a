package guestmem

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem/guestmemtest"
)

const page = 4096

func TestMapRefusesBadRegions(t *testing.T) {
	const max = math.MaxUint64
	for _, c := range []struct {
		name    string
		regions []Region // all from one file of 16 pages
		want    error
	}{
		{"empty", []Region{{0, 0, 0, 0}}, ErrEmptyRegion},
		{"guest address wraps", []Region{{max - page + 2, page, 0, 0}}, ErrRegionWraps},
		{"guest address of everything", []Region{{1, max, 0, 0}}, ErrRegionWraps},
		{"user address wraps", []Region{{0, page, max - page + 2, 0}}, ErrRegionWraps},
		{"offset wraps", []Region{{0, page, 0, max - 1}}, ErrRegionWraps},
		{"same guest address", []Region{at(0, page), {0, page, 0, 0}}, ErrRegionOverlap},
		{"guest addresses overlap by a byte", []Region{{0, page, 0, 0}, {page - 1, page, page, 0}}, ErrRegionOverlap},
		{"one guest range inside the other", []Region{{0, 4 * page, 0, 0}, {page, page, 1 << 40, 0}}, ErrRegionOverlap},
		{"the first inside the second", []Region{{page, page, 1 << 40, 0}, {0, 4 * page, 0, 0}}, ErrRegionOverlap},
		{"user addresses overlap by a byte", []Region{{0, page, 0, 0}, {page, page, page - 1, 0}}, ErrRegionOverlap},
		{"longer than the file", []Region{{0, 16*page + 1, 0, 0}}, ErrBeyondFile},
		{"behind the file", []Region{{0, 1, 0, 16 * page}}, ErrBeyondFile},
		{"far behind the file", []Region{{0, 1, 0, 1 << 62}}, ErrBeyondFile},
		{"offset and size behind the file", []Region{{0, 8 * page, 0, 8*page + 1}}, ErrBeyondFile},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := guestmemtest.Mappings()
			fd := guestmemtest.Memfd(t, 16*page)
			fds := make([]int, len(c.regions))
			for i := range fds {
				fds[i] = fd
			}
			table, err := Map(c.regions, fds)
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if table != nil {
				t.Error("a table beside the error")
			}
			if after := guestmemtest.Mappings(); after != before {
				t.Errorf("%d mappings before, %d after", before, after)
			}
		})
	}
}

func TestMapRefusesOtherCounts(t *testing.T) {
	if _, err := Map([]Region{at(0, page)}, nil); !errors.Is(err, ErrFdCount) {
		t.Errorf("error %v, want %v", err, ErrFdCount)
	}
}

func TestMapTakesEdges(t *testing.T) {
	const top = math.MaxUint64 - page
	mapAll(t, Region{GuestAddr: top, Size: page, UserAddr: top}, at(0, page), at(page, page), at(3*page, 1))
}

func TestMapRefusesOtherFiles(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(event)
	open := func(name string, flags int) int {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	file := filepath.Join(t.TempDir(), "ram")
	if err := os.WriteFile(file, make([]byte, page), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		fd   int
		want error
	}{
		{"pipe", pipe[0], ErrNotAFile},
		{"eventfd", event, ErrNotAFile},
		{"directory", open(t.TempDir(), unix.O_RDONLY), ErrNotAFile},
		{"device", open("/dev/zero", unix.O_RDWR), ErrNotAFile},
		{"no descriptor", -1, unix.EBADF},
		{"read-only file", open(file, unix.O_RDONLY), unix.EACCES},
		{"file", open(file, unix.O_RDWR), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, err := Map([]Region{at(0, page)}, []int{c.fd})
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if err == nil {
				table.Close()
			}
		})
	}
}

func TestMapOffsetInsideAPage(t *testing.T) {
	fd := guestmemtest.Memfd(t, 3*page)
	want := pattern(3 * page)
	if _, err := unix.Pwrite(fd, want, 0); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []uint64{0, 1, 16, page - 1, page, page + 17, 2*page + 5} {
		size := 3*page - offset
		table, err := Map([]Region{{GuestAddr: 0x1000, Size: size, Offset: offset}}, []int{fd})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, size)
		if err := table.Read(0x1000, got); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(got, want[offset:]) {
			t.Errorf("offset %d: other bytes", offset)
		}
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Huge pages are neither mapped nor unmapped in part. None is touched here: the
// machine may have none to give.
func TestMapHugePages(t *testing.T) {
	fd, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_HUGETLB)
	if err != nil {
		t.Skip("no huge pages:", err)
	}
	defer unix.Close(fd)
	const huge = 2 << 20
	if err := unix.Ftruncate(fd, 4*huge); err != nil {
		t.Fatal(err)
	}
	table, err := Map([]Region{{GuestAddr: 0, Size: huge, Offset: huge + 3*page}}, []int{fd})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(table.regions[0].mapping); got%huge != 0 {
		t.Errorf("mapping of %d bytes", got)
	}
	if err := table.Close(); err != nil {
		t.Error(err)
	}
}

func TestAddAndRemove(t *testing.T) {
	table := mapAll(t, at(4*page, page))
	low := at(0, page)
	if err := table.Add(low, guestmemtest.Memfd(t, page)); err != nil {
		t.Fatal(err)
	}
	if err := table.Add(low, guestmemtest.Memfd(t, page)); !errors.Is(err, ErrRegionOverlap) {
		t.Errorf("second Add: %v, want %v", err, ErrRegionOverlap)
	}
	if !table.Contains(page-1, 1) || table.Contains(page-1, 2) || !table.Contains(4*page, page) {
		t.Error("wrong extents after Add")
	}
	for _, r := range []Region{
		{GuestAddr: 1, Size: low.Size, UserAddr: low.UserAddr},
		{GuestAddr: low.GuestAddr, Size: low.Size - 1, UserAddr: low.UserAddr},
		{GuestAddr: low.GuestAddr, Size: low.Size, UserAddr: low.UserAddr + 1},
	} {
		if err := table.Remove(r); !errors.Is(err, ErrNoRegion) {
			t.Errorf("Remove(%+v): %v, want %v", r, err, ErrNoRegion)
		}
	}
	table.Contains(0, 1) // the region that goes is the latest that was looked up
	if err := table.Remove(low); err != nil {
		t.Fatal(err)
	}
	if table.Contains(0, 1) || !table.Contains(4*page, 1) || table.Len() != 1 {
		t.Error("wrong extents after Remove")
	}
}

func TestCloseEmptiesTheTable(t *testing.T) {
	table := mapAll(t, at(0, page), at(page, page))
	if !table.Contains(0, 2*page) {
		t.Error("adjacent regions are not contiguous")
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if table.Contains(0, 1) || table.Len() != 0 {
		t.Error("memory in a closed table")
	}
	if _, ok := table.GuestAddr(1<<52, 1); ok {
		t.Error("an address in a closed table")
	}
}

func TestGuestAddr(t *testing.T) {
	table := mapAll(t,
		Region{GuestAddr: 0x10000, Size: page, UserAddr: 0x7f0000000000},
		Region{GuestAddr: 0x10000 + page, Size: page, UserAddr: math.MaxUint64 - page})
	for _, c := range []struct {
		name    string
		user, n uint64
		want    uint64
		ok      bool
	}{
		{"first byte", 0x7f0000000000, 1, 0x10000, true},
		{"whole region", 0x7f0000000000, page, 0x10000, true},
		{"last byte", 0x7f0000000000 + page - 1, 1, 0x10000 + page - 1, true},
		{"one too many", 0x7f0000000000, page + 1, 0x10000, false},
		{"everything", 0x7f0000000000, math.MaxUint64, 0x10000, false},
		{"before", 0x7f0000000000 - 1, 1, 0, false},
		{"behind", 0x7f0000000000 + page, 1, 0, false},
		{"top of the address space", math.MaxUint64 - 1, 1, 0x10000 + 2*page - 1, true},
		{"above the top", math.MaxUint64, 1, 0, false},
		{"a guest address", 0x10000, 1, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := table.GuestAddr(c.user, c.n)
			if ok != c.ok || ok && got != c.want {
				t.Errorf("0x%x, %v; want 0x%x, %v", got, ok, c.want, c.ok)
			}
		})
	}
}

func TestContains(t *testing.T) {
	table := mapAll(t, at(page, page), at(2*page, page), at(4*page, page))
	for _, c := range []struct {
		gpa, n uint64
		want   bool
	}{
		{page, 2 * page, true}, {page, 2*page + 1, false}, {2*page - 1, 2, true},
		{0, 1, false}, {page - 1, 2, false}, {3 * page, 1, false},
		{4 * page, page, true}, {5*page - 1, 2, false},
		{math.MaxUint64, 2, false}, {page, math.MaxUint64, false}, {0, 0, true},
	} {
		if got := table.Contains(c.gpa, c.n); got != c.want {
			t.Errorf("Contains(0x%x, %d) is %v", c.gpa, c.n, got)
		}
	}
}

func TestReadAcrossRegions(t *testing.T) {
	table := mapAll(t, at(2*page, page), at(page, page), at(4*page, page))
	want := pattern(2 * page)
	fill(t, table, page, want)
	got := make([]byte, 2*page)
	if err := table.Read(page, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("error %v, or other bytes", err)
	}
	if err := table.Read(3*page-8, make([]byte, 9)); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("into a hole: %v, want %v", err, ErrOutOfRange)
	}
}

func TestLookupsDoNotAllocate(t *testing.T) {
	table := mapAll(t, at(0, page), at(page, page), at(4*page, page))
	p := make([]byte, 32)
	allocs := testing.AllocsPerRun(100, func() {
		table.Contains(0, 2*page)
		table.Contains(4*page, 1)
		table.GuestAddr(1<<52, 1)
		if table.Read(page-16, p) != nil {
			t.Fatal("Read failed")
		}
		if _, err := table.Span(0, 16, 16); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestMappingsComeAndGo(t *testing.T) {
	before := guestmemtest.Mappings()
	fd := guestmemtest.Memfd(t, 4*page)
	for range 100 {
		table, err := Map([]Region{at(0, page), {GuestAddr: page, Size: page, UserAddr: 0, Offset: 3 * page}}, []int{fd, fd})
		if err != nil {
			t.Fatal(err)
		}
		if got := guestmemtest.Mappings() - before; got != 2 {
			t.Fatalf("%d mappings for two regions", got)
		}
		if err := table.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after := guestmemtest.Mappings(); after != before {
		t.Errorf("%d mappings before, %d after", before, after)
	}
}
