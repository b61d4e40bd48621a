package guestmem

import (
	"bytes"
	"errors"
	"runtime"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem/guestmemtest"
)

func TestSpanLiesInOneRegion(t *testing.T) {
	table := mapAll(t, at(page, page), at(2*page, page), Region{GuestAddr: 4 * page, Size: page, Offset: 1})
	for _, c := range []struct {
		name          string
		gpa, n, align uint64
		want          error
	}{
		{"whole region", page, page, 16, nil},
		{"last bytes", 2*page - 6, 6, 2, nil},
		{"crosses into the next", 2*page - 6, 8, 2, ErrOutOfRange},
		{"crosses into a hole", 3*page - 6, 8, 2, ErrOutOfRange},
		{"outside", 0, 2, 2, ErrOutOfRange},
		{"empty", page, 0, 2, ErrOutOfRange},
		{"endless", page, 1<<64 - 1, 2, ErrOutOfRange},
		{"misaligned for the guest", page + 2, 4, 4, ErrMisaligned},
		{"misaligned for us", 4 * page, 4, 2, ErrMisaligned},
		{"needs no alignment", 4 * page, 4, 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := table.Span(c.gpa, c.n, c.align); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

func TestSpanAccess(t *testing.T) {
	mem := make([]byte, 16)
	s := NewSpan(mem)
	s.Store64(0, 0x0807060504030201)
	s.Store16(8, 0x0a09)
	s.StoreRelease16(10, 0x0c0b)
	want := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0, 0, 0}
	if !bytes.Equal(mem, want) {
		t.Errorf("memory %v, want %v", mem, want)
	}
	if got := s.Load64(1); got != 0x0908070605040302 {
		t.Errorf("Load64: 0x%x", got)
	}
	if got := s.Load16(9); got != 0x0b0a {
		t.Errorf("Load16: 0x%x", got)
	}
	if got := s.LoadAcquire16(10); got != 0x0c0b {
		t.Errorf("LoadAcquire16: 0x%x", got)
	}
	Fence()
}

func TestSpanChecksItsBounds(t *testing.T) {
	mem := make([]byte, 64)
	s := NewSpan(mem[16:32:32])
	for name, access := range map[string]func(){
		"Load16 behind":          func() { s.Load16(15) },
		"Load64 behind":          func() { s.Load64(9) },
		"Store16 behind":         func() { s.Store16(15, 1) },
		"Store64 behind":         func() { s.Store64(9, 1) },
		"LoadAcquire16 behind":   func() { s.LoadAcquire16(15) },
		"StoreRelease16 behind":  func() { s.StoreRelease16(16, 1) },
		"LoadAcquire16 before":   func() { s.LoadAcquire16(-2) },
		"LoadAcquire16 far away": func() { s.LoadAcquire16(1<<63 - 2) },
		"of nothing":             func() { Span{}.LoadAcquire16(0) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			access()
		})
	}
}

// sink keeps the compiler from dropping a load.
var sink uint64

// A frontend that shrinks the file makes accesses fault; the fault is a panic
// that says where, and the table knows whether that was guest memory.
func TestFaultsCanBeAttributed(t *testing.T) {
	fd := guestmemtest.Memfd(t, 2*page)
	table, err := Map([]Region{at(0, 2*page)}, []int{fd})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	s, err := table.Span(page, page, 16)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, page); err != nil {
		t.Fatal(err)
	}
	var b Buffers
	if err := b.Append(table, page, 16); err != nil {
		t.Fatal(err)
	}
	for name, access := range map[string]func(){
		"acquire":  func() { s.LoadAcquire16(2) },
		"release":  func() { s.StoreRelease16(2, 1) },
		"plain":    func() { sink = s.Load64(8) },
		"copy out": func() { b.CopyOut(0, 1, make([]byte, 16)) },
		"copy in":  func() { b.CopyIn(0, 1, make([]byte, 16)) },
	} {
		t.Run(name, func(t *testing.T) {
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
			defer func() {
				fault, ok := recover().(interface {
					runtime.Error
					Addr() uintptr
				})
				if !ok {
					t.Fatal("no fault")
				}
				if !table.Holds(fault.Addr()) {
					t.Errorf("fault at 0x%x is not attributed to the guest", fault.Addr())
				}
			}()
			access()
		})
	}
	if table.Holds(0) || table.Holds(address(make([]byte, 1))) {
		t.Error("memory of ours is attributed to the guest")
	}
}
