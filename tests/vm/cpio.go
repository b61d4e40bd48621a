package vm

import (
	"bytes"
	"fmt"
)

// archive is an initramfs in the making: cpio, format newc.
type archive struct {
	buf   bytes.Buffer
	inode int
}

// Modes of cpio entries, as in struct stat.
const (
	modeDir  = 0o040755
	modeFile = 0o100755
	modeChar = 0o020600
)

func (a *archive) dir(name string)               { a.entry(name, modeDir, 0, 0, nil) }
func (a *archive) file(name string, data []byte) { a.entry(name, modeFile, 0, 0, data) }

func (a *archive) char(name string, major, minor int) { a.entry(name, modeChar, major, minor, nil) }

func (a *archive) entry(name string, mode, major, minor int, data []byte) {
	a.inode++
	fmt.Fprintf(&a.buf, "070701")
	for _, field := range []int{
		a.inode, mode, 0, 0, // inode, mode, uid, gid
		1, 0, len(data), // links, mtime, size
		0, 0, major, minor, // device of the file, device it stands for
		len(name) + 1, 0, // name with its NUL, checksum
	} {
		fmt.Fprintf(&a.buf, "%08X", field)
	}
	a.buf.WriteString(name + "\x00")
	a.align()
	a.buf.Write(data)
	a.align()
}

// align pads to four bytes, as names and contents must be.
func (a *archive) align() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

func (a *archive) bytes() []byte {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.buf.Bytes()
}
