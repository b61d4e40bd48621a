package guestmem

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/go-multierror"
)

// Errors of Map, Table.Add and Table.Remove.
var (
	ErrFdCount       = errors.New("regions and descriptors differ in number")
	ErrEmptyRegion   = errors.New("region is empty")
	ErrRegionWraps   = errors.New("region wraps around the address space")
	ErrRegionOverlap = errors.New("region overlaps another one")
	ErrNotAFile      = errors.New("descriptor is not a regular file or memfd")
	ErrBeyondFile    = errors.New("region reaches beyond the end of its file")
	ErrNoRegion      = errors.New("no such region")
)

// ErrOutOfRange says that an address range is not, or not wholly, guest memory.
var ErrOutOfRange = errors.New("address range outside guest memory")

// Region describes a piece of guest memory as the memory messages do
// (VHOST_USER_SET_MEM_TABLE, VHOST_USER_ADD_MEM_REG).
type Region struct {
	GuestAddr uint64 // where the guest sees it
	Size      uint64 // bytes
	UserAddr  uint64 // where the frontend sees it: any 64-bit number
	Offset    uint64 // where it starts in the file
}

// wraps reports whether an address of the region, or the one behind it, does not
// fit in 64 bits.
func (r Region) wraps() bool {
	return r.Size > ^r.GuestAddr || r.Size > ^r.UserAddr || r.Size > ^r.Offset
}

// overlaps reports whether r and s share a guest address or a user address.
func (r Region) overlaps(s Region) bool {
	return intersect(r.GuestAddr, r.Size, s.GuestAddr, s.Size) ||
		intersect(r.UserAddr, r.Size, s.UserAddr, s.Size)
}

func intersect(a, aSize, b, bSize uint64) bool {
	return b-a < aSize || a-b < bSize // one difference wraps, unless they are equal
}

// region is a mapped Region.
type region struct {
	Region
	window
}

// unmapped is where lookups start before any has succeeded: it holds no address.
var unmapped region

// Table is the guest's memory: disjoint mapped regions. Map makes one, an empty
// one too.
type Table struct {
	regions []region // by ascending guest address
	last    *region  // what the latest lookup found: the next one is mostly there too
}

// Map validates and maps regions[i] from fds[i]. On error nothing stays mapped.
// The descriptors remain the caller's, who may close them at once.
func Map(regions []Region, fds []int) (*Table, error) {
	if len(regions) != len(fds) {
		return nil, ErrFdCount
	}
	t := &Table{last: &unmapped}
	for i, r := range regions {
		if err := t.Add(r, fds[i]); err != nil {
			t.Close() // unmapping what was mapped a moment ago does not fail
			return nil, fmt.Errorf("region %d: %w", i, err)
		}
	}
	return t, nil
}

// Add validates and maps one more region. On error the table is as before.
// The descriptor remains the caller's. Buffers and Spans stay valid.
func (t *Table) Add(r Region, fd int) error {
	if r.Size == 0 {
		return ErrEmptyRegion
	}
	if r.wraps() {
		return ErrRegionWraps
	}
	if slices.ContainsFunc(t.regions, func(s region) bool { return r.overlaps(s.Region) }) {
		return ErrRegionOverlap
	}
	mapped, err := mapWindow(fd, r.Size, r.Offset, maxTable-t.size())
	if err != nil {
		return err
	}
	t.regions = slices.Insert(t.regions, t.below(r.GuestAddr), region{r, mapped})
	t.last = &unmapped
	return nil
}

// Remove unmaps the region with r's guest address, user address and size
// (VHOST_USER_REM_MEM_REG compares no offset). Buffers and Spans into it become
// invalid.
func (t *Table) Remove(r Region) error {
	i := t.index(r)
	if i < 0 {
		return ErrNoRegion
	}
	mapping := t.regions[i].mapping
	t.regions = slices.Delete(t.regions, i, i+1)
	t.last = &unmapped
	return unmap(mapping)
}

// Has reports whether there is a region that Remove would unmap for r.
func (t *Table) Has(r Region) bool { return t.index(r) >= 0 }

// index returns which region has r's guest address, user address and size; -1: none.
func (t *Table) index(r Region) int {
	return slices.IndexFunc(t.regions, func(s region) bool {
		return s.GuestAddr == r.GuestAddr && s.UserAddr == r.UserAddr && s.Size == r.Size
	})
}

// Len returns the number of regions.
func (t *Table) Len() int { return len(t.regions) }

// size returns the bytes of all regions.
func (t *Table) size() (n uint64) {
	for i := range t.regions {
		n += t.regions[i].Size
	}
	return n
}

// Close unmaps all regions. The table is empty afterwards; Buffers and Spans
// taken from it become invalid.
func (t *Table) Close() error {
	var result *multierror.Error
	for _, r := range t.regions {
		result = multierror.Append(result, unmap(r.mapping))
	}
	t.regions, t.last = nil, &unmapped
	return result.ErrorOrNil()
}

// GuestAddr translates the n bytes at a frontend's userAddr. They must lie in
// one region.
func (t *Table) GuestAddr(userAddr, n uint64) (guestAddr uint64, ok bool) {
	for i := range t.regions {
		r := &t.regions[i]
		if off := userAddr - r.UserAddr; off < r.Size {
			return r.GuestAddr + off, n <= r.Size-off
		}
	}
	return 0, false
}

// Locate returns the guest address and the length of range i of b, which must
// have been appended from t and not be skipped to its end.
func (t *Table) Locate(b *Buffers, i int) (guestAddr, n uint64) {
	v := view(&b.iov[i])
	for j := range t.regions {
		r := &t.regions[j]
		if off := address(v) - address(r.mem); off < uintptr(len(r.mem)) {
			return r.GuestAddr + uint64(off), uint64(len(v))
		}
	}
	return 0, 0
}

// Contains reports whether all n bytes at gpa are guest memory.
func (t *Table) Contains(gpa, n uint64) bool {
	for n > 0 {
		c := t.chunk(gpa, n)
		if c == nil {
			return false
		}
		gpa += uint64(len(c))
		n -= uint64(len(c))
	}
	return true
}

// Read copies the bytes at gpa to p, across regions where need be. It fails with
// ErrOutOfRange; p is then undefined.
func (t *Table) Read(gpa uint64, p []byte) error {
	for len(p) > 0 {
		c := t.chunk(gpa, uint64(len(p)))
		if c == nil {
			return ErrOutOfRange
		}
		p = p[copy(p, c):]
		gpa += uint64(len(c))
	}
	return nil
}

// Span returns the n bytes at gpa. They must lie in one region; both addresses,
// the guest's and ours, must be multiples of align.
func (t *Table) Span(gpa, n, align uint64) (Span, error) {
	c := t.chunk(gpa, n)
	if n == 0 || uint64(len(c)) != n {
		return Span{}, ErrOutOfRange
	}
	if gpa%align != 0 || uint64(address(c))%align != 0 {
		return Span{}, fmt.Errorf("%w: 0x%x is not a multiple of %d", ErrMisaligned, gpa, align)
	}
	return Span{c}, nil
}

// chunk returns the bytes from gpa on that lie in one region, at most n; nil
// when gpa is not guest memory.
func (t *Table) chunk(gpa, n uint64) []byte {
	r := t.last
	off := gpa - r.GuestAddr
	if off >= r.Size {
		if r = t.find(gpa); r == nil {
			return nil
		}
		t.last = r
		off = gpa - r.GuestAddr
	}
	if rest := r.Size - off; n > rest {
		n = rest
	}
	return r.mem[off : off+n : off+n]
}

// find returns the region that holds gpa, or nil.
func (t *Table) find(gpa uint64) *region {
	i := t.below(gpa)
	if i == 0 || gpa-t.regions[i-1].GuestAddr >= t.regions[i-1].Size {
		return nil
	}
	return &t.regions[i-1]
}

// below returns how many regions start at gpa or below it.
func (t *Table) below(gpa uint64) int {
	low, high := 0, len(t.regions)
	for low < high {
		mid := int(uint(low+high) / 2)
		if t.regions[mid].GuestAddr <= gpa {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// Holds reports whether one of the mappings covers hostAddr: whether an access
// there that faulted was an access to this guest's memory.
func (t *Table) Holds(hostAddr uintptr) bool {
	return slices.ContainsFunc(t.regions, func(r region) bool { return r.holds(hostAddr) })
}
