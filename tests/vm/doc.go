// Package vm boots real Linux guests against a vhost-user-vsock daemon and talks
// with them: User-Mode Linux, and QEMU without KVM. The tests and the demo use it.
package vm
