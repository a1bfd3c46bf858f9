<?php
// Makes Moodle use FLEXI: one AI provider, its actions, and its key, which is made here and never leaves Moodle's
// database. Run it as the web server's user, with this program on standard input: php -- '<JSON>' <provider.php
//
// The JSON (flexi.moodle.wish): config, name, provider (openai or ollama), url, consumer, actions {name: {model,
// instruction or null}}, per_user_hour and per_hour (null: no limit), apply, new_key. Prints one line of JSON last:
// moodle, changes (what it did, or would do without apply), key_sha256 (null: none), problems (then nothing is done).
//
// Source of every name: moodle/moodle. Moodle 4.5: ai/classes/manager.php and ai/provider/openai at 9762977c, where a
// provider is a plugin with settings. Since 5.0 a provider is a row of ai_providers: (public/)ai/classes/manager.php
// (create_provider_instance, update_provider_instance, enable_provider_instance, delete_provider_instance).

define('CLI_SCRIPT', true);

$wish = json_decode($argv[1] ?? '', true, 32, JSON_THROW_ON_ERROR);

function flexi_report(array $report): never {
    global $CFG;
    echo "\n" . json_encode([
        'schema' => 1,
        'moodle' => $CFG->release ?? null,
        'changes' => $report['changes'] ?? [],
        'key_sha256' => $report['key_sha256'] ?? null,
        'problems' => $report['problems'] ?? [],
    ], JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE) . "\n";
    exit(0);
}

if (!is_readable($wish['config'])) {
    flexi_report(['problems' => ["{$wish['config']} is not there, or the web server's user may not read it"]]);
}

require($wish['config']);

/** What an action has to be set to; endpoint is asked for by one of the two providers only. */
function flexi_settings(array $wish, string $action, ?string $instruction): array {
    $settings = ['model' => $wish['actions'][$action]['model']];
    if ($wish['provider'] === 'openai') {
        $settings['endpoint'] = $wish['url'] . '/v1/chat/completions';
    }
    // What an admin of Moodle wrote stays, unless the site file says something.
    $settings['systeminstruction'] = $wish['actions'][$action]['instruction']
        ?? $instruction ?? ('core_ai\\aiactions\\' . $action)::get_system_instruction();
    return $settings;
}

function flexi_limits(array $wish): array {
    $limits = [];
    foreach (['user' => 'per_user_hour', 'global' => 'per_hour'] as $kind => $name) {
        $limits["enable{$kind}ratelimit"] = $wish[$name] === null ? 0 : 1;
        if ($wish[$name] !== null) {
            $limits["{$kind}ratelimit"] = $wish[$name];
        }
    }
    return $limits;
}

function flexi_key(mixed $present, array $wish, array &$changes): string {
    if (is_string($present) && $present !== '' && !$wish['new_key']) {
        return $present;
    }
    $changes[] = 'make a key';
    return 'flexi-' . rtrim(strtr(base64_encode(random_bytes(32)), '+/', '-_'), '=');
}

/** The names of what differs; numbers and their text are the same, as Moodle's forms store text. */
function flexi_differs(array $present, array $wanted, string $what, array &$changes): bool {
    $found = false;
    foreach ($wanted as $name => $value) {
        if (!array_key_exists($name, $present) || (string) $present[$name] !== (string) $value) {
            $changes[] = "set $name of $what";
            $found = true;
        }
    }
    return $found;
}

/** Moodle 4.5: the one provider of the plugin. */
function flexi_plugin(array $wish): array {
    $plugin = 'aiprovider_openai';
    $present = (array) get_config($plugin);
    $changes = [];
    $key = flexi_key($present['apikey'] ?? null, $wish, $changes);
    $wanted = flexi_limits($wish);
    foreach ((new \aiprovider_openai\provider())->get_action_list() as $class) {
        $action = $class::get_basename();
        $wanted[$action] = isset($wish['actions'][$action]) ? 1 : 0;
        if ($wanted[$action]) {
            $instruction = $present["action_{$action}_systeminstruction"] ?? null;
            foreach (flexi_settings($wish, $action, $instruction) as $name => $value) {
                $wanted["action_{$action}_{$name}"] = $value;
            }
        }
    }
    // An action that was never switched is on (manager::is_action_enabled).
    $switches = array_fill_keys(['generate_text', 'generate_image', 'summarise_text'], 1);
    flexi_differs($present + $switches, $wanted, $plugin, $changes);
    $enabled = array_key_exists('openai', \core\plugininfo\aiprovider::get_enabled_plugins() ?? []);
    if (!$enabled) {
        $changes[] = "enable $plugin";
    }
    if ($wish['apply'] && $changes) {
        foreach (['apikey' => $key] + $wanted as $name => $value) {
            set_config($name, $value, $plugin);
        }
        \core\plugininfo\aiprovider::enable_plugin('openai', 1);
        \core_plugin_manager::reset_caches();
    }
    return [$changes, $wish['apply'] ? $key : ($present['apikey'] ?? '')];
}

/** Moodle 5.0 and later: the instance with our name. */
function flexi_instance(array $wish): array {
    $manager = \core\di::get(\core_ai\manager::class);
    $classname = "aiprovider_{$wish['provider']}\\provider";
    $secret = $wish['provider'] === 'openai' ? 'apikey' : 'password';
    $changes = [];
    $named = $manager->get_provider_instances(['name' => $wish['name']]);
    $others = array_filter($named, fn($instance) => get_class($instance) !== $classname);
    $same = array_diff_key($named, $others);
    ksort($same);
    $instance = array_shift($same);
    foreach ($surplus = array_merge($others, $same) as $other) {
        $changes[] = "remove the other provider {$wish['name']} (" . get_class($other) . ')';
    }

    $config = $instance->config ?? [];
    $present = (string) ($config[$secret] ?? '');
    $what = "provider {$wish['name']}";
    if ($instance === null) {
        $changes[] = "make $what ($classname)";
    }
    $key = flexi_key($present, $wish, $changes);
    $wanted = flexi_limits($wish);
    if ($wish['provider'] === 'ollama') {
        // The form stores enablebasicauth and the provider reads basicauthenabled (provider.php and hook_listener.php
        // of 5.0 and 5.1.3): without both no key is sent.
        $wanted += ['endpoint' => $wish['url'], 'enablebasicauth' => 1, 'basicauthenabled' => 1];
        $wanted += ['username' => $wish['consumer']];
    }
    $update = flexi_differs($config, $wanted, $what, $changes) || $key !== $present;
    $config = array_merge($config, $wanted, [$secret => $key]);

    $actions = $instance->actionconfig ?? [];
    foreach ($classname::get_action_list() as $class) {
        $action = $class::get_basename();
        $on = isset($wish['actions'][$action]);
        $settings = $actions[$class]['settings'] ?? [];
        if ((bool) ($actions[$class]['enabled'] ?? !$on) !== $on) {
            $changes[] = 'switch ' . ($on ? 'on ' : 'off ') . $action;
            $update = true;
        }
        if ($on) {
            $wanted = flexi_settings($wish, $action, $settings['systeminstruction'] ?? null);
            $update = flexi_differs($settings, $wanted, $action, $changes) || $update;
            $settings = array_merge($settings, $wanted);
        }
        $actions[$class] = array_merge($actions[$class] ?? [], ['enabled' => $on, 'settings' => $settings]);
    }
    if ($instance !== null && !$instance->enabled) {
        $changes[] = "enable $what";
    }
    if ($wish['apply']) {
        foreach ($surplus as $other) {
            $manager->delete_provider_instance($other);
        }
        if ($instance === null) {
            $manager->create_provider_instance(
                classname: '\\' . $classname, name: $wish['name'], enabled: true, config: $config, actionconfig: $actions);
        } else {
            if ($update) {
                $instance = $manager->update_provider_instance(
                    provider: $instance, config: $config, actionconfig: $actions);
            }
            $manager->enable_provider_instance($instance);
        }
    }
    return [$changes, $wish['apply'] ? $key : $present];
}

function flexi_problems(array $wish, bool $instances): array {
    global $CFG;
    $problems = [];
    if ((int) $CFG->branch < 405) {
        return ["Moodle {$CFG->release} has no AI subsystem: it comes with 4.5"];
    }
    if (!class_exists("aiprovider_{$wish['provider']}\\provider")) {
        $remedy = $wish['provider'] === 'ollama' ? 'it comes with 5.0; write moodle.provider: openai' : 'install the plugin';
        $problems[] = "Moodle {$CFG->release} has no aiprovider_{$wish['provider']}: $remedy";
    } else if ($instances) {
        $known = array_map(fn($class) => $class::get_basename(), "aiprovider_{$wish['provider']}\\provider"::get_action_list());
    } else {
        $known = array_map(fn($class) => $class::get_basename(), (new \aiprovider_openai\provider())->get_action_list());
    }
    foreach (array_diff(array_keys($wish['actions']), $known ?? array_keys($wish['actions'])) as $action) {
        if (in_array($action, $wish['named'])) {
            $problems[] = "Moodle {$CFG->release} has no action $action: take it out of moodle.actions";
        }
    }
    // Moodle's own protection of its network (lib/classes/files/curl_security_helper.php).
    if ((new \core\files\curl_security_helper())->url_is_blocked($wish['url'] . '/')) {
        $problems[] = "Moodle's HTTP security blocks {$wish['url']}: its admin allows the address in curlsecurityblockedhosts"
            . ' and the port in curlsecurityallowedport (Site administration, Security, HTTP security)';
    }
    return $problems;
}

try {
    \core\session\manager::set_user(get_admin());
    // A manager of instances has methods of its own for them.
    $instances = method_exists(\core_ai\manager::class, 'create_provider_instance');
    $problems = flexi_problems($wish, $instances);
    if ($problems) {
        flexi_report(['problems' => $problems]);
    }
    $transaction = $DB->start_delegated_transaction();
    [$changes, $key] = $instances ? flexi_instance($wish) : flexi_plugin($wish);
    $transaction->allow_commit();
    flexi_report(['changes' => $changes, 'key_sha256' => $key === '' ? null : hash('sha256', $key)]);
} catch (\Throwable $error) {
    if (isset($transaction) && !$transaction->is_disposed()) {
        try {
            $transaction->rollback($error);
        } catch (\Throwable) {
            // It throws what it was given, which is reported here.
        }
    }
    flexi_report(['problems' => [get_class($error) . ': ' . $error->getMessage()]]);
}
