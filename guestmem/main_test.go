package guestmem

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain fails when a test leaves a descriptor or a mapping of a memfd behind.
func TestMain(m *testing.M) {
	memfdMappings() // opens the runtime's own descriptors
	fds := openFds()
	code := m.Run()
	if left := openFds(); left != fds {
		fmt.Fprintf(os.Stderr, "descriptors: %d before the tests, %d after\n", fds, left)
		code = 1
	}
	if left := memfdMappings(); left != 0 {
		fmt.Fprintf(os.Stderr, "%d mappings of guest memory left\n", left)
		code = 1
	}
	os.Exit(code)
}

func openFds() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// memfdMappings returns how many mappings of memfds the process has.
func memfdMappings() int {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	return bytes.Count(maps, []byte("/memfd:"))
}

// memfd returns a memfd of the size that ends with the test.
func memfd(tb testing.TB, size int64) int {
	tb.Helper()
	fd, err := unix.MemfdCreate("guestmem-test", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal("memfd_create:", err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, size); err != nil {
		tb.Fatal("ftruncate:", err)
	}
	return fd
}

// mapAll maps regions, each from the start of a memfd of its own.
func mapAll(tb testing.TB, regions ...Region) *Table {
	tb.Helper()
	var fds []int
	for _, r := range regions {
		fds = append(fds, memfd(tb, int64(r.Offset+r.Size)))
	}
	table, err := Map(regions, fds)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := table.Close(); err != nil {
			tb.Error(err)
		}
	})
	return table
}

// at returns a region at gpa whose user address is far away.
func at(gpa, size uint64) Region {
	return Region{GuestAddr: gpa, Size: size, UserAddr: gpa + 1<<52}
}

// fill writes p at gpa through the table.
func fill(tb testing.TB, table *Table, gpa uint64, p []byte) {
	tb.Helper()
	var b Buffers
	if err := b.Append(table, gpa, uint32(len(p))); err != nil {
		tb.Fatal(err)
	}
	b.CopyIn(0, b.Len(), p)
}

// pattern returns n bytes that differ from their neighbours.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>8)
	}
	return p
}
