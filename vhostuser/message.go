package vhostuser

import "golang.org/x/sys/unix"

// message is one whole message. It owns the descriptors that came with it until
// they are taken.
type message struct {
	Header
	payload []byte // the connection's: valid until it receives again
	fds     []int
}

// takeFd hands the first descriptor over to the caller.
// Precondition: there is one.
func (m *message) takeFd() int {
	fd := m.fds[0]
	m.fds = m.fds[1:]
	return fd
}

// close closes the descriptors that nobody took.
func (m *message) close() {
	closeFds(m.fds)
	m.fds = nil
}

// closeFds closes descriptors that a frontend passed. There is nothing to do
// about one that does not close cleanly: it is gone all the same.
func closeFds(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
