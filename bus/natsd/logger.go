package natsd

import (
	"fmt"
	"sync"

	"github.com/rs/zerolog"
)

// logger hands nats-server's lines to zerolog. What nats-server calls fatal
// ends a process only by its own logger's hand; this one keeps it for Start to
// return.
type logger struct {
	log zerolog.Logger

	mu    sync.Mutex
	fatal error // the first
}

func (l *logger) Noticef(format string, v ...any) { l.log.Debug().Msgf(format, v...) }
func (l *logger) Warnf(format string, v ...any)   { l.log.Warn().Msgf(format, v...) }
func (l *logger) Errorf(format string, v ...any)  { l.log.Error().Msgf(format, v...) }
func (l *logger) Debugf(format string, v ...any)  { l.log.Trace().Msgf(format, v...) }
func (l *logger) Tracef(format string, v ...any)  { l.log.Trace().Msgf(format, v...) }

// wantsDebug reports whether anybody would see the output of Debugf.
func (l *logger) wantsDebug() bool { return l.log.GetLevel() <= zerolog.TraceLevel }

func (l *logger) Fatalf(format string, v ...any) {
	l.log.Error().Bool("fatal", true).Msgf(format, v...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == nil {
		l.fatal = fmt.Errorf(format, v...)
	}
}

func (l *logger) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}
