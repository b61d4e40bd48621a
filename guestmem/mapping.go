package guestmem

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// window is part of a file, mapped.
type window struct {
	mem     []byte // the bytes that were asked for
	mapping []byte // the whole pages around mem
}

// mapWindow maps size bytes of fd, at most limit, from offset on. fd must be a file that
// holds all of them: a pipe has no pages, and an access behind the end of a file faults.
func mapWindow(fd int, size, offset, limit uint64) (window, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return window{}, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return window{}, ErrNotAFile
	}
	if file := uint64(st.Size); offset > file || size > file-offset {
		return window{}, fmt.Errorf("%w: %d bytes at %d of %d", ErrBeyondFile, size, offset, file)
	}
	if size > limit {
		return window{}, ErrAddressSpace
	}
	page, err := pageSize(fd)
	if err != nil {
		return window{}, err
	}
	// The offset of a mapping is a multiple of the page size, and huge pages are
	// unmapped in whole pages only.
	lead := offset % page
	length := (lead + size + page - 1) / page * page
	if err := taken.take(length); err != nil {
		return window{}, err
	}
	mapping, err := mmap(fd, int64(offset-lead), int(length))
	if err != nil {
		taken.giveBack(length)
		return window{}, err
	}
	end := lead + size
	return window{mem: mapping[lead:end:end], mapping: mapping}, nil
}

// holds reports whether hostAddr is in the pages of the mapping.
func (w window) holds(hostAddr uintptr) bool {
	return hostAddr-address(w.mapping) < uintptr(len(w.mapping))
}

// pageSize returns the size of the pages that back the file.
func pageSize(fd int) (uint64, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &st) }); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	if st.Type == unix.HUGETLBFS_MAGIC && st.Bsize > 0 {
		return uint64(st.Bsize), nil
	}
	return uint64(os.Getpagesize()), nil
}

// mmap maps the file shared with the guest. Nothing is reserved: the memory is
// the frontend's. Core dumps leave it out: it is full of the guest's secrets.
func mmap(fd int, offset int64, length int) ([]byte, error) {
	mapping, err := unix.Mmap(fd, offset, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	if err := unix.Madvise(mapping, unix.MADV_DONTDUMP); err != nil {
		unix.Munmap(mapping) // cannot fail: it was mapped a moment ago
		return nil, os.NewSyscallError("madvise", err)
	}
	return mapping, nil
}

func unmap(mapping []byte) error {
	if err := unix.Munmap(mapping); err != nil {
		return os.NewSyscallError("munmap", err)
	}
	taken.giveBack(uint64(len(mapping)))
	return nil
}

// retry calls f again for as long as a signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
