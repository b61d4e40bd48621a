package virtqueue

import "github.com/vhost-user-vsock/vhost-user-vsock/guestmem"

// Chain is one popped descriptor chain. Its ranges are [From, To) of the Buffers
// it was popped into: the device reads [From, Split) and writes [Split, To).
// There may be none: descriptors of length 0 count for nothing.
//
// A chain with Err set has no ranges and is to be pushed with length 0.
type Chain struct {
	Head            uint16 // index of the first descriptor; in a packed ring the buffer id
	From, Split, To int
	ReadBytes       uint64 // in the readable ranges
	WriteBytes      uint64 // in the writable ranges
	Err             error  // guestmem.ErrOutOfRange or ErrTooManyRanges: why it cannot be served
}

// startAt makes c a chain without ranges.
func (c *Chain) startAt(from int) { c.From, c.Split, c.To = from, from, from }

const (
	// maxIndirect bounds the walk through an indirect table. Linux chains 18
	// there, whatever the size of the ring: a header and 17 fragments.
	maxIndirect = 1024
	// maxIndirectTable is how many descriptors a 16-bit next can reach.
	maxIndirectTable = 1 << 16
	// maxRanges bounds what one chain costs in memory. A chain of the largest ring
	// has 32768 buffers; only one that wraps all of guest memory around itself,
	// over and over, has more ranges than this.
	maxRanges = 1 << 16
)

// walk collects the buffers of the chain that starts at c.Head. A cycle is found
// when the chain has more descriptors than the ring.
//
// Preconditions: c.Head < q.size; c.From and c.Split are bufs.Len().
func (q *Queue) walk(c *Chain, bufs *guestmem.Buffers) error {
	index := c.Head
	for range q.size {
		d := readDescriptor(q.desc, int(index))
		if d.flags&flagIndirect != 0 {
			return q.walkIndirect(c, bufs, d)
		}
		if err := q.collect(c, bufs, d); err != nil {
			return err
		}
		if d.flags&flagNext == 0 {
			return nil
		}
		if index = d.next; index >= q.size {
			return ErrIndex
		}
	}
	return ErrChainLoop
}

// walkIndirect goes on in the table that ref refers to, and ends the chain there.
//
// virtio v1.4 §2.7.5.3.2: the device MUST ignore the write flag of ref and MUST
// handle direct descriptors followed by one indirect. §2.7.5.3.1: a driver MUST
// NOT set both INDIRECT and NEXT, nor nest tables.
//
// Deviation: a table may hold a longer chain than the ring has entries, which
// §2.7.5.3.1 forbids and drivers do.
func (q *Queue) walkIndirect(c *Chain, bufs *guestmem.Buffers, ref descriptor) error {
	n, err := q.checkTable(ref)
	if err != nil {
		return err
	}
	var index uint32
	for range min(n, maxIndirect) {
		addr, rest, err := fetch(q.mem, ref.addr+uint64(index)*descriptorSize)
		if err != nil {
			return ErrIndirectTable
		}
		d := decode(addr, rest)
		if d.flags&flagIndirect != 0 {
			return ErrIndirectNested
		}
		if err := q.collect(c, bufs, d); err != nil {
			return err
		}
		if d.flags&flagNext == 0 {
			return nil
		}
		if index = uint32(d.next); index >= n {
			return ErrIndex
		}
	}
	return ErrChainLoop
}

// checkTable returns how many descriptors the indirect table has that ref refers
// to, in a ring of either layout.
func (q *Queue) checkTable(ref descriptor) (n uint32, err error) {
	n = ref.len / descriptorSize
	switch {
	case !q.cfg.Indirect:
		return 0, ErrIndirectFeature
	case ref.flags&flagNext != 0:
		return 0, ErrIndirectNext
	case n == 0 || ref.len%descriptorSize != 0 || n > maxIndirectTable:
		return 0, ErrIndirectLen
	case !q.mem.Contains(ref.addr, uint64(ref.len)):
		return 0, ErrIndirectTable
	}
	return n, nil
}

// collect adds the buffer that d describes to the chain. virtio v1.4 §2.7.4.2:
// writable elements MUST come after all readable ones. An empty buffer is legal
// framing (§2.7.4) and counts for nothing, whatever its address and flags.
func (q *Queue) collect(c *Chain, bufs *guestmem.Buffers, d descriptor) error {
	if d.len == 0 {
		return nil
	}
	if d.flags&flagWrite == 0 && c.WriteBytes != 0 {
		return ErrOrder
	}
	if err := bufs.Append(q.mem, d.addr, d.len); err != nil {
		return err
	}
	if bufs.Len()-c.From > maxRanges {
		return ErrTooManyRanges
	}
	c.To = bufs.Len()
	if d.flags&flagWrite == 0 {
		c.ReadBytes += uint64(d.len)
		c.Split = c.To
	} else {
		c.WriteBytes += uint64(d.len)
	}
	return nil
}

// refuse ends a walk that failed. Where err concerns the chain only, it makes c
// what is to be pushed with length 0; else the ring is broken and ok is false.
func (q *Queue) refuse(c *Chain, bufs *guestmem.Buffers, err error) (ok bool) {
	bufs.Truncate(c.From)
	if !unfit(err) {
		q.fail(err)
		return false
	}
	q.Stats.BadChains.Inc()
	c.startAt(c.From)
	c.ReadBytes, c.WriteBytes, c.Err = 0, 0, err
	return true
}

// unfit reports whether err concerns one chain only, not the structure of the
// ring.
func unfit(err error) bool {
	return err == guestmem.ErrOutOfRange || err == ErrTooManyRanges
}
