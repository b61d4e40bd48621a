// Package guestmem maps the memory of a guest and is the only package that
// holds pointers into it.
//
// A Table is the set of regions a frontend passed; each is validated once, when
// it is mapped, so that later checks are one subtraction and one comparison.
// A Buffers is a list of ranges that a descriptor chain named: data moves
// between them and a socket without a copy. A Span is a piece that lies whole in
// one region, such as a part of a ring, with the ordered 16-bit accesses that
// rings need (virtio v1.4 §2.7.6, §2.7.8). A DirtyLog tells a frontend that
// migrates its guest which pages were written.
//
// The guest and the frontend can change every byte at any time: whoever looks at
// guest memory copies first, checks the copy and uses the copy. If the frontend
// shrinks the file under a mapping, a system call answers EFAULT and a plain
// access faults; the caller runs under debug.SetPanicOnFault, and Table.Holds
// or DirtyLog.Holds tells it whose fault it was.
//
// Nothing here is safe for concurrent use unless it says so.
package guestmem
