package guestmem

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mapRegion maps r from fd, which must be a file that holds all of it: a pipe
// has no pages, and an access behind the end of a file faults.
func mapRegion(r Region, fd int) (region, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return region{}, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return region{}, ErrNotAFile
	}
	if size := uint64(st.Size); r.Offset > size || r.Size > size-r.Offset {
		return region{}, fmt.Errorf("%w: %d bytes at %d of %d", ErrBeyondFile, r.Size, r.Offset, size)
	}
	page, err := pageSize(fd)
	if err != nil {
		return region{}, err
	}
	// The offset of a mapping is a multiple of the page size, and huge pages are
	// unmapped in whole pages only.
	lead := r.Offset % page
	length := (lead + r.Size + page - 1) / page * page
	mapping, err := mmap(fd, int64(r.Offset-lead), int(length))
	if err != nil {
		return region{}, err
	}
	end := lead + r.Size
	return region{Region: r, mapping: mapping, mem: mapping[lead:end:end]}, nil
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
	return os.NewSyscallError("munmap", unix.Munmap(mapping))
}

// retry calls f again for as long as a signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
