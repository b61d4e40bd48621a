package guestmem

import (
	"errors"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem/guestmemtest"
)

// newLog maps a log of size bytes at offset of a file, and returns it beside the
// file's bytes. It ends with the test.
func newLog(tb testing.TB, size, offset uint64) (*DirtyLog, []byte) {
	tb.Helper()
	length := int64(offset + size)
	fd := guestmemtest.Memfd(tb, length)
	log, err := MapDirtyLog(fd, size, offset)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := log.Close(); err != nil {
			tb.Error(err)
		}
	})
	return log, guestmemtest.Mapped(tb, fd, length)
}

// marked returns the pages whose bits are set.
func marked(bits []byte) (pages []uint64) {
	for i, b := range bits {
		for bit := range uint64(8) {
			if b>>bit&1 != 0 {
				pages = append(pages, 8*uint64(i)+bit)
			}
		}
	}
	return pages
}

func TestMark(t *testing.T) {
	const pages = 8 * 5
	for _, c := range []struct {
		name    string
		addr, n uint64
		want    []uint64
		lost    uint64
	}{
		{"nothing", 5 * page, 0, nil, 0},
		{"a byte", 5 * page, 1, []uint64{5}, 0},
		{"a page", 5 * page, page, []uint64{5}, 0},
		{"a page's last byte", 6*page - 1, 1, []uint64{5}, 0},
		{"two bytes in two pages", 6*page - 1, 2, []uint64{5, 6}, 0},
		{"over a byte of the log", 6 * page, 4 * page, []uint64{6, 7, 8, 9}, 0},
		{"over a word of the log", 31 * page, 2 * page, []uint64{31, 32}, 0},
		{"the last page", 39 * page, page, []uint64{39}, 0},
		{"behind the log", 40 * page, page, nil, 1},
		{"far behind the log", 1 << 40, 3 * page, nil, 3},
		{"over the end", 38*page + 1, 4 * page, []uint64{38, 39}, 3},
		{"up to the end of all addresses", math.MaxUint64, 1, nil, 1},
		{"around the end of all addresses", math.MaxUint64 - page, math.MaxUint64, nil, 2},
		{"more than there are addresses", 39 * page, math.MaxUint64, []uint64{39}, 1<<52 - pages},
	} {
		t.Run(c.name, func(t *testing.T) {
			log, bits := newLog(t, pages/8, 0)
			log.Mark(c.addr, c.n)
			if got := marked(bits); !slices.Equal(got, c.want) {
				t.Errorf("pages %v, want %v", got, c.want)
			}
			if log.Lost() != c.lost {
				t.Errorf("%d pages lost, want %d", log.Lost(), c.lost)
			}
		})
	}
}

// A log starts and ends anywhere in its file, and its neighbours stay as they are.
func TestLogAnywhereInItsFile(t *testing.T) {
	for _, offset := range []uint64{0, 1, 2, 3, 5, 4093, 4095, 4096, 8191} {
		for size := range uint64(9) {
			log, file := newLog(t, size+1, offset)
			pages := 8 * (size + 1)
			for page := range pages {
				log.Mark(page*4096, 1)
				if got := marked(file[offset:]); uint64(len(got)) != page+1 || got[page] != page {
					t.Fatalf("%d bytes at %d: pages %v, want those up to %d", size+1, offset, got, page)
				}
			}
			if got := marked(file[:offset]); got != nil {
				t.Fatalf("%d bytes at %d: bits %v before the log", size+1, offset, got)
			}
			if log.Mark(pages*4096, 1); log.Lost() != 1 {
				t.Fatalf("%d bytes at %d: a page behind the log is not lost", size+1, offset)
			}
		}
	}
}

func TestMarkKeepsOtherBits(t *testing.T) {
	log, bits := newLog(t, 8, 0)
	copy(bits, []byte{0x81, 0x42, 0x24, 0x18, 0x18, 0x24, 0x42, 0x81})
	before := marked(bits)
	log.Mark(33*page, 1)
	after := marked(bits)
	if want := append(before, 33); len(after) != len(want) || !slices.Contains(after, 33) {
		t.Errorf("pages %v, want %v", after, want)
	}
}

func TestMarkAll(t *testing.T) {
	log, file := newLog(t, 5, 3)
	log.MarkAll()
	if got := marked(file); len(got) != 40 || got[0] != 24 {
		t.Errorf("pages %v of a log that starts at 24", got)
	}
}

func TestMapDirtyLogRefuses(t *testing.T) {
	fd, huge := guestmemtest.Memfd(t, 2*page), guestmemtest.Memfd(t, maxLog+page)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	for _, c := range []struct {
		name         string
		fd           int
		size, offset uint64
		want         error
	}{
		{"empty", fd, 0, 0, ErrEmptyLog},
		{"longer than the file", fd, 2*page + 1, 0, ErrBeyondFile},
		{"behind the file", fd, 1, 2 * page, ErrBeyondFile},
		{"size and offset together", fd, page + 1, page, ErrBeyondFile},
		{"sum wraps", fd, math.MaxUint64, 2, ErrBeyondFile},
		{"more than there are addresses for", huge, maxLog + 1, 0, ErrAddressSpace},
		{"offset of everything", fd, 1, math.MaxUint64, ErrBeyondFile},
		{"pipe", pipe[0], page, 0, ErrNotAFile},
		{"no descriptor", -1, page, 0, unix.EBADF},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := guestmemtest.Mappings()
			if log, err := MapDirtyLog(c.fd, c.size, c.offset); log != nil || !errors.Is(err, c.want) {
				t.Errorf("log %v, error %v; want %v", log, err, c.want)
			}
			if after := guestmemtest.Mappings(); after != before {
				t.Errorf("%d mappings before, %d after", before, after)
			}
		})
	}
}

// A frontend that shrinks the log's file causes a fault that can be attributed.
func TestShrunkLogFaults(t *testing.T) {
	fd := guestmemtest.Memfd(t, 2*page)
	log, err := MapDirtyLog(fd, 2*page, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := unix.Ftruncate(fd, page); err != nil {
		t.Fatal(err)
	}
	log.Mark(0, 1) // is still there
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		fault, ok := recover().(interface{ Addr() uintptr })
		if !ok || !log.Holds(fault.Addr()) {
			t.Errorf("recovered %v", fault)
		}
		if log.Holds(0) || log.Holds(fault.Addr()+2*page) {
			t.Error("the log holds what is not its")
		}
	}()
	log.Mark(8*page*page, 1)
}

func TestClosedLogHoldsNothing(t *testing.T) {
	log, err := MapDirtyLog(guestmemtest.Memfd(t, page), page, 0)
	if err != nil {
		t.Fatal(err)
	}
	inside := address(log.log.mem)
	if !log.Holds(inside) {
		t.Error("the log does not hold its bytes")
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	log.Mark(0, 1)
	if log.Lost() != 1 || log.Holds(inside) {
		t.Error("a closed log has pages")
	}
}

// TestMigration copies memory as a frontend does, page by page as the log says,
// while it is written: no write may be missing in the end. It would be if a bit
// were seen before what it stands for.
func TestMigration(t *testing.T) {
	const pages, writes = 32, 300_000 // one word of the log, that the two meet there
	log, bits := newLog(t, pages/8, 0)
	memory := guestmemtest.Mapped(t, guestmemtest.Memfd(t, pages*page), pages*page)
	copied := make([]byte, len(memory))
	word := (*uint32)(unsafe.Pointer(&bits[0]))
	pass := func(swaps int) {
		var dirty uint32
		for range swaps {
			dirty |= atomic.SwapUint32(word, 0)
		}
		for i := range pages {
			if dirty>>i&1 != 0 {
				copy(copied[i*page:][:page], memory[i*page:])
			}
		}
	}
	var done atomic.Bool
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for !done.Load() {
			pass(200)
		}
	}()
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range writes {
		addr := rng.Uint64N(pages*page - 2)
		memory[addr], memory[addr+1] = byte(i), byte(i>>8)
		log.Mark(addr, 2)
	}
	done.Store(true)
	<-finished
	pass(1)
	for i := range pages {
		if !slices.Equal(copied[i*page:][:page], memory[i*page:][:page]) {
			t.Errorf("page %d was written after it was copied, and not marked", i)
		}
	}
}

// Other devices mark other pages in the same word of the same log at the same
// time: neither undoes what the other does.
func TestTwoDevicesMark(t *testing.T) {
	const rounds, own = 200_000, 16
	fd := guestmemtest.Memfd(t, 4)
	word := (*uint32)(unsafe.Pointer(&guestmemtest.Mapped(t, fd, 4)[0]))
	var devices sync.WaitGroup
	for device := range uint64(2) {
		log, err := MapDirtyLog(fd, 4, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		mask := uint32(0xffff) << (own * device)
		devices.Go(func() {
			for round := range rounds {
				for i := range uint64(own) {
					log.Mark((own*device+i)*page, 1)
				}
				if got := atomic.LoadUint32(word) & mask; got != mask {
					t.Errorf("device %d, round %d: bits 0x%08x are there of 0x%08x", device, round, got, mask)
					return
				}
				atomic.AndUint32(word, ^mask)
			}
		})
	}
	devices.Wait()
}

func TestMarkDoesNotAllocate(t *testing.T) {
	log, _ := newLog(t, page, 0)
	if allocs := testing.AllocsPerRun(100, func() { log.Mark(5*page+7, 3*page) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func BenchmarkMark(b *testing.B) {
	log, _ := newLog(b, page, 0)
	for b.Loop() {
		log.Mark(5*page+7, 1500)
	}
}
