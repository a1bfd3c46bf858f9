<?php
// Stands for a Moodle: the few classes and functions that src/flexi/moodle/provider.php calls, with what they take, give
// and refuse in moodle/moodle (4.5: ai/ at 9762977c; since 5.0: ai/ and public/ai/ up to 5.1.3). Its database is
// state.json beside this file; `branch` in it (405, 500, 501) chooses which Moodle it is.

namespace {
    define('MOODLE_INTERNAL', true);
    defined('CLI_SCRIPT') || die('not from the command line');

    class flexi_stub {
        public static array $state;
        private static array $before;

        public static function load(): void {
            self::$state = json_decode(file_get_contents(__DIR__ . '/state.json'), true)
                + ['branch' => 501, 'config' => [], 'providers' => [], 'next' => 1, 'blocked' => [], 'ports' => [80, 443]];
        }

        public static function begin(): void {
            self::$before = self::$state;
        }

        public static function commit(): void {
            file_put_contents(__DIR__ . '/state.json', json_encode(self::$state, JSON_PRETTY_PRINT));
        }

        public static function undo(): void {
            self::$state = self::$before;
        }
    }
    flexi_stub::load();

    $CFG = (object) [
        'branch' => (string) flexi_stub::$state['branch'],
        'release' => ['405' => '4.5.9', '500' => '5.0.4', '501' => '5.1.3'][flexi_stub::$state['branch']] . ' (stub)',
    ];

    /** As moodle_database: written when the outermost transaction ends well. */
    class flexi_stub_transaction {
        private bool $disposed = false;

        public function allow_commit(): void {
            $this->disposed = true;
            flexi_stub::commit();
        }

        public function is_disposed(): bool {
            return $this->disposed;
        }

        public function rollback(\Throwable $why): never {
            $this->disposed = true;
            flexi_stub::undo();
            throw $why;
        }
    }
    $DB = new class {
        public function start_delegated_transaction(): flexi_stub_transaction {
            flexi_stub::begin();
            return new flexi_stub_transaction();
        }
    };

    /** Of a plugin, all settings as an object, or one; false where it was never set. Values are text, as in its table. */
    function get_config(string $plugin, ?string $name = null): mixed {
        $all = flexi_stub::$state['config'][$plugin] ?? [];
        return $name === null ? (object) $all : ($all[$name] ?? false);
    }

    function set_config(string $name, mixed $value, string $plugin): bool {
        flexi_stub::$state['config'][$plugin][$name] = (string) $value;
        return true;
    }

    function get_admin(): object {
        return (object) ['id' => 2];
    }

    class core_plugin_manager {
        public static function reset_caches(): void {
        }
    }
}

namespace core\session {
    class manager {
        public static function set_user(object $user): void {
        }
    }
}

namespace core\files {
    class curl_security_helper {
        public function url_is_blocked(string $url): bool {
            $parts = parse_url($url);
            $port = $parts['port'] ?? ['http' => 80, 'https' => 443][$parts['scheme']];
            return in_array($parts['host'], \flexi_stub::$state['blocked'])
                || !in_array($port, \flexi_stub::$state['ports']);
        }
    }
}

namespace core\plugininfo {
    class aiprovider {
        public static function get_enabled_plugins(): ?array {
            return get_config('aiprovider_openai', 'enabled') == 1 ? ['openai' => 'openai'] : [];
        }

        public static function enable_plugin(string $plugin, int $enabled): bool {
            set_config('enabled', $enabled, "aiprovider_$plugin");
            return true;
        }
    }
}

namespace core_ai\aiactions {
    abstract class base {
        public static function get_basename(): string {
            return substr(static::class, strrpos(static::class, '\\') + 1);
        }

        public static function get_system_instruction(): string {
            return 'Moodle says: ' . static::get_basename();
        }
    }
    class generate_text extends base {
    }
    class generate_image extends base {
    }
    class summarise_text extends base {
    }
}

namespace {
    require __DIR__ . (flexi_stub::$state['branch'] < 500 ? '/plugin.php' : '/instances.php');
}
