package guestmem

import (
	"errors"
	"math"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem/guestmemtest"
)

func TestSpaceIsLimited(t *testing.T) {
	s := space{limit: 10}
	for _, step := range []struct {
		n    uint64
		want error
	}{
		{11, ErrAddressSpace},
		{math.MaxUint64, ErrAddressSpace},
		{6, nil},
		{5, ErrAddressSpace},
		{4, nil},
		{0, nil},
		{1, ErrAddressSpace},
	} {
		if err := s.take(step.n); err != step.want {
			t.Errorf("take %d of what is left: error %v, want %v", step.n, err, step.want)
		}
	}
	s.giveBack(3)
	if s.take(4) == nil || s.take(3) != nil {
		t.Error("what was given back is not what can be taken")
	}
}

// What is mapped is counted for as long as it is, whole pages.
func TestMappingsTakeSpace(t *testing.T) {
	before := taken.taken.Load()
	fd := guestmemtest.Memfd(t, 16*page)
	table, err := Map([]Region{at(0, page), {GuestAddr: 1 << 30, Size: page, UserAddr: 1 << 31, Offset: 1}}, []int{fd, fd})
	if err != nil {
		t.Fatal(err)
	}
	wantTaken := func(what string, pages uint64) {
		t.Helper()
		if n := taken.taken.Load() - before; n != pages*page {
			t.Errorf("%s: %d bytes are taken, want %d pages", what, n, pages)
		}
	}
	wantTaken("a page, and one on two", 3)
	if _, err := mapWindow(fd, page, 16*page, maxTable); err == nil {
		t.Error("a page behind the file is mapped")
	}
	wantTaken("after a refusal", 3)
	if err := table.Remove(at(0, page)); err != nil {
		t.Fatal(err)
	}
	wantTaken("after a removal", 2)
	log, err := MapDirtyLog(fd, page, 0)
	if err != nil {
		t.Fatal(err)
	}
	wantTaken("with a log", 3)
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	wantTaken("in the end", 0)
}

// A table of more than a VM can have is refused whatever space is left.
func TestTableIsBounded(t *testing.T) {
	before := guestmemtest.Mappings()
	fd := guestmemtest.Memfd(t, maxTable+page)
	if _, err := Map([]Region{at(0, maxTable+page)}, []int{fd}); !errors.Is(err, ErrAddressSpace) {
		t.Errorf("one region: error %v, want %v", err, ErrAddressSpace)
	}
	table, err := Map([]Region{at(0, page)}, []int{fd})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if err := table.Add(at(1<<44, maxTable), fd); !errors.Is(err, ErrAddressSpace) {
		t.Errorf("one more region: error %v, want %v", err, ErrAddressSpace)
	}
	if after := guestmemtest.Mappings(); after != before+1 {
		t.Errorf("%d mappings before, %d after", before, after)
	}
}
