// Package soak has guests come and go on the daemon for as long as it is told, and then
// looks whether the daemon has grown.
package soak
