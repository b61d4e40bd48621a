package scarce

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is struct seccomp_notif: a system call that waits to be made.
type call struct {
	id          uint64
	_, _        uint32 // pid, flags
	nr          int32
	_           uint32 // arch
	instruction uint64
	args        [6]uint64
}

// answer is struct seccomp_notif_resp.
type answer struct {
	id    uint64
	value int64
	errno int32 // negative
	flags uint32
}

// answerOne answers one question, if it still stands: a signal may have taken it back.
func (k *Kernel) answerOne(program, questions int) error {
	var c call
	if err := control(questions, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&c)); err != 0 {
		return unanswered(err)
	}
	errno, held := k.verdict(program, questions, &c)
	if held {
		return nil
	}
	return c.reply(questions, errno)
}

// reply has the call fail, or be made with 0.
func (c *call) reply(questions int, errno unix.Errno) error {
	a := answer{id: c.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if errno != 0 {
		a.errno, a.flags = -int32(errno), 0
	}
	return unanswered(control(questions, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a)))
}

func control(fd int, request uint, arg unsafe.Pointer) unix.Errno {
	// SAFETY: arg points to what the request is for, and outlives the call.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
	return errno
}

func unanswered(errno unix.Errno) error {
	switch errno {
	case 0, unix.ENOENT, unix.EINTR:
		return nil
	}
	return os.NewSyscallError("ioctl", errno)
}

// install has the kernel ask before system calls of this thread, and of all that it
// becomes, and returns the descriptor of the questions.
func install(filter []unix.SockFilter) (questions int, err error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, os.NewSyscallError("prctl", err)
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// A call that has been asked about is not interrupted: runtimes send signals.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	// SAFETY: program and what it refers to outlive the call.
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return -1, os.NewSyscallError("seccomp", errno)
	}
	return int(fd), nil
}
