package killq

import (
	"math/bits"
	"time"
)

// entry is one armed deadline.
type entry[K any] struct {
	at  time.Duration
	key K
}

// heap is a min-max heap: a complete binary tree whose even levels hold, at
// each node, the earliest entry of the node's subtree and whose odd levels hold
// the latest. Both ends of the order are so in reach: the earliest to expire,
// the latest to give up when there is no room. (Atkinson et al., "Min-max heaps
// and generalized priority queues", 1986.)
//
//	level 0 (min)            2
//	level 1 (max)       9         7
//	level 2 (min)     3   4     5   6
type heap[K any] []entry[K]

// latest returns the index of the latest entry.
// Preconditions: the heap is not empty.
func (h heap[K]) latest() int {
	switch {
	case len(h) == 1:
		return 0
	case len(h) == 2 || h[1].at >= h[2].at:
		return 1
	default:
		return 2
	}
}

// push adds e.
// Preconditions: len(h) < cap(h), so that nothing is allocated.
func (h *heap[K]) push(e entry[K]) {
	*h = append(*h, e)
	h.up(len(*h) - 1)
}

// remove takes out entry i, which must be the root or the latest.
func (h *heap[K]) remove(i int) entry[K] {
	old := *h
	last := len(old) - 1
	e := old[i]
	old[i], old[last] = old[last], entry[K]{} // no key is kept alive
	*h = old[:last]
	if i < last {
		h.down(i)
	}
	return e
}

// onMaxLevel reports whether node i holds the latest of its subtree.
func onMaxLevel(i int) bool { return bits.Len(uint(i+1))%2 == 0 }

// above reports whether entry i belongs above entry j on levels of the given
// kind.
func (h heap[K]) above(i, j int, maxLevel bool) bool {
	if maxLevel {
		i, j = j, i
	}
	return h[i].at < h[j].at
}

func (h heap[K]) swap(i, j int) { h[i], h[j] = h[j], h[i] }

// up moves entry i, just added as a leaf, to where it belongs: over to the
// levels of its parent if it passes the parent there, then up by grandparents.
func (h heap[K]) up(i int) {
	maxLevel := onMaxLevel(i)
	if parent := (i - 1) / 2; i > 0 && h.above(i, parent, !maxLevel) {
		h.swap(i, parent)
		i, maxLevel = parent, !maxLevel
	}
	for i > 2 {
		grandparent := ((i-1)/2 - 1) / 2
		if !h.above(i, grandparent, maxLevel) {
			return
		}
		h.swap(i, grandparent)
		i = grandparent
	}
}

// down moves entry i, just put there, to where it belongs in its subtree.
func (h heap[K]) down(i int) {
	maxLevel := onMaxLevel(i)
	for {
		next := h.topBelow(i, maxLevel)
		if next < 0 || !h.above(next, i, maxLevel) {
			return
		}
		h.swap(next, i)
		if next <= 2*i+2 { // a child: nothing below it belongs above it or i
			return
		}
		if parent := (next - 1) / 2; h.above(next, parent, !maxLevel) {
			h.swap(next, parent)
		}
		i = next
	}
}

// topBelow returns the index of the entry that belongs highest among children
// and grandchildren of i, or -1 without any.
func (h heap[K]) topBelow(i int, maxLevel bool) int {
	top := -1
	for _, nodes := range [...][2]int{{2*i + 1, 2*i + 3}, {4*i + 3, 4*i + 7}} {
		for j := nodes[0]; j < min(nodes[1], len(h)); j++ {
			if top < 0 || h.above(j, top, maxLevel) {
				top = j
			}
		}
	}
	return top
}
