// Package guestmemtest helps to test what maps guest memory: it makes memfds, and
// finds descriptors and mappings that a test left behind.
package guestmemtest

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Main runs a package's tests for its TestMain and returns the exit code. They
// fail when one leaves a descriptor or a mapping of a memfd behind.
func Main(m *testing.M) (code int) {
	Mappings() // opens the runtime's own descriptors
	fds := openFds()
	code = m.Run()
	if left := openFds(); left != fds {
		fmt.Fprintf(os.Stderr, "descriptors: %d before the tests, %d after\n", fds, left)
		code = 1
	}
	if left := Mappings(); left != 0 {
		fmt.Fprintf(os.Stderr, "%d mappings of guest memory left\n", left)
		code = 1
	}
	return code
}

func openFds() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// Mappings returns how many mappings of memfds the process has.
func Mappings() int {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	return bytes.Count(maps, []byte("/memfd:"))
}

// Memfd returns a memfd of the size, which ends with the test.
func Memfd(tb testing.TB, size int64) int {
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

// Mapped returns the bytes of a file of the size, mapped as its owner has them
// until the test ends.
func Mapped(tb testing.TB, fd int, size int64) []byte {
	tb.Helper()
	mem, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		tb.Fatal("mmap:", err)
	}
	tb.Cleanup(func() { unix.Munmap(mem) })
	return mem
}
