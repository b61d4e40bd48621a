package hostsock

import (
	"fmt"
	"maps"
	"sync"

	"golang.org/x/sys/unix"
)

// Registry knows the sockets of this process by their inodes, so that a guest
// cannot reach one of them under another name. The zero value is empty. It is
// safe for concurrent use.
//
// A bound socket holds its inode, so a number means the same file for as long
// as the socket is open: Remove a path before its socket is closed.
type Registry struct {
	mu    sync.RWMutex
	paths map[fileID]string // guarded by mu
}

// Add notes the socket at path as ours.
func (r *Registry) Add(path string) error {
	id, err := identify(unix.AT_FDCWD, path, 0)
	if err != nil {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	r.add(id, path)
	return nil
}

func (r *Registry) add(id fileID, path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paths == nil {
		r.paths = make(map[fileID]string)
	}
	r.paths[id] = path
}

// remove forgets one socket, whatever others were added as its path.
func (r *Registry) remove(id fileID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.paths, id)
}

// Remove forgets the socket added as path, whether or not it is still there.
func (r *Registry) Remove(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.paths, func(_ fileID, p string) bool { return p == path })
}

// Owns reports whether path leads, through any links, to a socket of ours.
func (r *Registry) Owns(path string) bool {
	id, err := identify(unix.AT_FDCWD, path, 0)
	if err != nil {
		return false // a connect would find nothing either
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ours := r.paths[id]
	return ours
}
