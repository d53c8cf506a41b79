"""The guards of this project, how each is taken away, and the check that has to notice.

A guard is a line that refuses what is wrong, or that keeps what could be lost; a check is a test of
this suite.  A row is what is spoiled, the check, and which one where it is one of many alike.
"""

import re
import zipfile

import tinygrad_rnn as tg
from demos import _brackets, _fetch, _glyphs, _kit
from demos import _training as training
from tinygrad_rnn import (
    anomaly,
    backend,
    checkpoints,
    engine,
    linear,
    optim,
    place,
    recompute,
    recording,
    saving,
    sweep,
)
from tinygrad_rnn.nn import module

from . import (
    test_accidents,
    test_anomaly,
    test_checkpoints,
    test_choices,
    test_fetch,
    test_forged,
    test_freed,
    test_golden_errors,
    test_hostile,
    test_hostile_objects,
    test_memory,
    test_nn,
    test_optim,
    test_recompute,
    test_recording,
    test_saving,
    test_training,
    test_versions,
)
from .spoil import Shared, replaced, respelled

FORWARD = test_anomaly.test_an_argument_that_had_nan_before_is_named
BACKWARD = test_anomaly.test_the_gradient_that_backward_is_given_is_looked_at
WRITTEN_TO = test_anomaly.test_a_plain_array_that_was_given_to_an_operation_is_watched
STOPPED = test_training.test_a_run_stopped_at_any_step_goes_on_bit_by_bit
SYNCED = test_saving.test_the_file_is_on_the_disk_before_its_name_is
HALF_LOADED = test_training.test_nothing_is_half_loaded
FOREIGN = test_saving.test_archives_of_other_things_are_refused
TOLD = test_golden_errors.test_the_message_is_that_of_the_page
MONSTERS = test_hostile.test_monsters_are_read_or_refused
NPZ = {"suffix": ".npz"}

SILENT_FAULTS = {
    "a change of a leaf leaves its version": (
        respelled(engine.outdate, "watch.changed, x.node.watch.changed_by = _birth(), by", "watch"),
        test_versions.test_a_graph_does_not_go_back_to_weights_that_were_loaded_over,
    ),
    "a step changes a leaf unseen": (
        respelled(optim.Optimizer.step, "change(parameter, w, by)", "parameter.array = w"),
        test_optim.test_a_graph_from_before_a_step_does_not_go_back_to_what_has_moved,
    ),
    "a step changes rows unseen": (
        respelled(optim.Optimizer.step, "change(parameter, w, by)", "parameter.array = w"),
        test_versions.test_a_graph_does_not_go_back_to_a_table_whose_rows_have_moved,
    ),
    "load_state_dict changes a leaf unseen": (
        respelled(
            module.Module.load_state_dict,
            'change(tensor, value, f"{type(self).__name__}.load_state_dict")',
            "tensor.array = value",
        ),
        test_versions.test_a_graph_does_not_go_back_to_weights_that_were_loaded_over,
    ),
    "the sweep asks for no version": (
        respelled(sweep.sweep, "node.watch is not None and is_changed(node, source)", "False"),
        test_versions.test_a_graph_does_not_go_back_to_weights_that_were_loaded_over,
    ),
    "a freed graph is a graph without edges": (
        respelled(sweep.sweep, "node.edges = freed", "node.edges = ()"),
        test_freed.test_a_freed_graph_says_where_it_was_freed_and_what_to_do,
    ),
    "no_grad holds in every thread": (
        replaced(recording, "PAUSES", Shared(0)),
        test_recording.test_no_grad_holds_for_its_thread_alone,
    ),
    "an index is not copied": (
        respelled(linear._copied, "np.array(index)", "np.asarray(index)"),
        test_memory.test_a_changed_index_array_does_not_reach_the_backward_pass,
    ),
    "tensor does not copy": (
        respelled(
            tg.tensor,
            "data.astype(dtype or data.dtype)",
            "data.astype(dtype or data.dtype, copy=False)",
        ),
        test_anomaly.test_tensor_copies_its_data,
    ),
    "NaN looked for on the way forward alone": (
        respelled(anomaly.Detector.watching, "if self.is_wrong(g):", "if False:"),
        BACKWARD,
    ),
    "NaN looked for on the way back alone": (
        respelled(anomaly.Detector.recorded, "if self.is_wrong(part):", "if False:"),
        FORWARD,
    ),
    "checksums not compared": (
        respelled(anomaly.expect_unchanged, "if now == before:", "if True:"),
        WRITTEN_TO,
    ),
    "infinities not looked for": (
        respelled(anomaly.Detector.is_wrong, "self.inf and", "False and"),
        test_anomaly.test_a_result_with_nan_is_an_error_and_one_with_infinity_only_if_asked,
        {"inf": True},
    ),
    "a step along any gradient": (
        respelled(optim.Optimizer.step, "if check_finite:", "if False:"),
        test_optim.test_rows_that_are_not_finite_stop_the_step_too,
    ),
    "a step along rows of any gradient": (
        respelled(
            optim.Optimizer._check,
            "if g is not None:",
            "if 0:",
        ),
        test_optim.test_rows_that_are_not_finite_stop_the_step_too,
    ),
    "ids wrap round": (
        respelled(backend.Backend.check_ids, "(ids < 0) | (ids >= size)", "ids >= size"),
        test_choices.test_ids_never_wrap_round,
        {"target": -1},
    ),
    "a second run with other values": (
        respelled(
            recompute.Call.pulled_back, " or not alike([x.array for x in results], self.arrays)", ""
        ),
        test_recompute.test_a_parameter_that_was_exchanged_or_changed_in_between_is_noticed,
    ),
    "a leaf in the middle may be copied": (
        respelled(tg.Tensor._expect_apart, "not self.is_leaf", "False"),
        test_accidents.test_copies_of_leaves_are_leaves_and_results_refuse,
    ),
}
FILES = {
    "the file not synced": (
        respelled(saving.replacing.__wrapped__, "os.fsync(file.fileno())", "pass"),
        SYNCED,
        NPZ,
    ),
    "the folder not synced": (
        respelled(saving.replacing.__wrapped__, "os.fsync(entries)", "pass"),
        SYNCED,
        NPZ,
    ),
    "named before it is whole": (
        respelled(
            saving.replacing.__wrapped__,
            "            yield file\n",
            "            os.replace(temporary, path)\n            yield file\n",
        ),
        test_saving.test_a_failure_leaves_the_old_file_and_nothing_else,
        NPZ | {"failure": "full disk"},
    ),
    "written over the old file": (
        respelled(
            saving.replacing.__wrapped__,
            "tempfile.mkstemp(dir=folder, prefix=prefix)",
            "os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), path",
        ),
        test_saving.test_a_failure_leaves_the_old_file_and_nothing_else,
        NPZ | {"failure": "full disk"},
    ),
    "a temporary file left behind": (
        respelled(saving.replacing.__wrapped__, "os.unlink(temporary)", "pass"),
        test_saving.test_a_failure_leaves_the_old_file_and_nothing_else,
        NPZ | {"failure": "no rename"},
    ),
    "checksums of a .npz not compared": (
        replaced(zipfile.ZipExtFile, "_update_crc", lambda self, data: None),
        test_saving.test_a_flipped_bit_in_any_byte_is_noticed_or_does_no_harm,
        NPZ,
    ),
    "the checksum of a .safetensors not compared": (
        respelled(saving._read_safetensors, "if checksum != _checksum(arrays, note):", "if False:"),
        test_saving.test_a_flipped_bit_in_any_byte_is_noticed_or_does_no_harm,
        {"suffix": ".safetensors"},
    ),
    "no cap on the size of a file": (
        respelled(saving._check_file, "status.st_size > max_bytes", "False"),
        test_forged.test_a_file_larger_than_the_cap_is_refused_unread,
        NPZ,
    ),
    "members may be compressed": (
        respelled(saving._check_members, "info.compress_type != zipfile.ZIP_STORED", "False"),
        test_saving.test_a_small_file_cannot_take_much_memory,
    ),
    "two arrays of one name": (
        respelled(saving._check_members, "if name in names:", "if False:"),
        FOREIGN,
        {"case": "twice"},
    ),
    "an array shorter than its member": (
        respelled(saving._read_array, "if claimed != there:", "if claimed > there:"),
        FOREIGN,
        {"case": "too small"},
    ),
    "sizes below 0": (
        replaced(
            saving,
            "_NPY_HEADER",
            re.compile(saving._NPY_HEADER.pattern.replace(rb"(?:0|[1-9][0-9]*)", rb"-?[0-9]+")),
        ),
        FOREIGN,
        {"case": "negative"},
    ),
    "arrays missing from a file": (
        respelled(saving._checkpoint, "set(map(str, names)) != arrays.keys()", "False"),
        FOREIGN,
        {"case": "hidden"},
    ),
    "a later format read as this one": (
        respelled(saving._checkpoint, "version != _FORMAT_VERSION", "False"),
        FOREIGN,
        {"case": "later version"},
    ),
    "a state of other shapes": (
        respelled(saving.fitted, "x.shape != like.shape or ", ""),
        HALF_LOADED,
        {"part": "model"},
    ),
    "a model half loaded": (
        respelled(
            module.Module.load_state_dict,
            "        renamed.setdefault(first, x)\n",
            "        renamed.setdefault(first, x)\n"
            "        if first in tensors and tensors[first].array.shape == x.shape:\n"
            "            tensors[first].array = x\n",
        ),
        test_nn.test_a_model_takes_all_of_a_state_or_nothing,
    ),
}
RUNS = {
    "gone on without the optimiser's state": (
        respelled(
            training.Training._take, 'self.optimizer.load_state_dict(saved["optimizer"])', "pass"
        ),
        STOPPED,
        {"step": 6},
    ),
    "gone on without the default generator's state": (
        respelled(
            training.Training._take, 'tg.default_rng().bit_generator.state = saved["drawn"]', "pass"
        ),
        STOPPED,
        {"step": 6},
    ),
    "gone on without the order of the batches": (
        respelled(training.Training._take, "self.rng.bit_generator.state = ", ""),
        STOPPED,
        {"step": 6},
    ),
    "gone on at the beginning of the epoch": (
        respelled(training.fit, "in parts[now.step :]:", "in parts:"),
        STOPPED,
        {"step": 6},
    ),
    "gone on without the carried state": (
        respelled(
            training.Training._take,
            'self.state = placed(saved["state"])',
            "self.state = None",
        ),
        STOPPED,
        {"step": 6},
    ),
    "gone on without the best weights": (
        respelled(
            training.Training._take,
            'saved["losses"].tolist(), saved["best"]',
            'saved["losses"].tolist(), saved["model"]',
        ),
        STOPPED,
        {"step": 9},
    ),
    "a state that does not fit is half taken": (
        respelled(training.Training.load, "self._take(before)", "pass"),
        HALF_LOADED,
        {"part": "figures"},
    ),
    "other settings taken": (
        respelled(training.Training._check, "if other:", "if False:"),
        test_training.test_other_settings_are_refused_with_those_of_the_run,
    ),
    "another vocabulary taken": (
        respelled(training.other_words, "if word != other:", "if False:"),
        test_training.test_another_vocabulary_and_other_data_are_refused,
    ),
    "Ctrl-C does not save": (
        respelled(training.Keeper.after_step, "self.stopping or ", ""),
        test_training.test_ctrl_c_saves_after_the_step_and_the_run_goes_on_bit_by_bit,
        {"step": 2},
    ),
    "the best is not kept": (
        respelled(checkpoints.Checkpoints._tidy, "*([self._best[0]] if self._best else [])", ""),
        test_checkpoints.test_the_best_outlives_the_last,
    ),
}
DOWNLOADS = {
    "the SHA-256 not compared": (
        respelled(_fetch.write, "digest(content) != file.sha256", "False"),
        test_fetch.test_an_older_file_survives_the_lies_about_the_next,
    ),
    "a certificate not checked": (
        respelled(_fetch.answer, "create_default_context()", "_create_unverified_context()"),
        test_fetch.test_a_server_that_cannot_prove_its_name_is_not_believed,
        {"case": "unknown issuer"},
    ),
    "a file of the user's written over": (
        respelled(_fetch.fetch, "if file not in missing:", "if False:"),
        test_fetch.test_what_is_there_is_not_fetched_again,
    ),
}
MESSAGES = {
    "the line left out": (
        respelled(place.Place.lines, "if self.line else", "if False else"),
        TOLD,
        {"title": "Shapes that do not broadcast"},
    ),
    "the modules left out": (
        respelled(place.Place.inside, "[*paths, *self.steps()]", "self.steps()"),
        TOLD,
        {"title": "NaN in the forward pass of an LSTM"},
    ),
    "the time step left out": (
        respelled(place.Place.inside, "[*paths, *self.steps()]", "paths"),
        TOLD,
        {"title": "NaN in the forward pass of an LSTM"},
    ),
    "the line of the backward pass in place of that of the forward pass": (
        respelled(anomaly.told, "lines = place.lines()", "lines = error.place"),
        TOLD,
        {"title": "NaN in the backward pass of an LSTM"},
    ),
}
STRANGERS = {
    "NUL bytes are text": (
        respelled(_kit.decoded, 'wrong = raw.find(b"\\0")', "wrong = -1"),
        MONSTERS,
        {"reader": test_hostile.BY_NAME["text"]},
    ),
    "nothing is a text": (
        respelled(_kit.decoded, "if not text.strip():", "if False:"),
        MONSTERS,
        {"reader": test_hostile.BY_NAME["text"]},
    ),
    "a message that names no file": (
        respelled(_kit.decoded, "{path} is empty", "the file is empty"),
        MONSTERS,
        {"reader": test_hostile.BY_NAME["text"]},
    ),
    "an archive that unpacks to more than fits": (
        respelled(_glyphs.member, "if size > kit.LARGEST:", "if False:"),
        test_hostile.test_a_bomb_is_refused_before_it_is_unpacked,
    ),
    "chains of brackets of any length": (
        respelled(_brackets.without_tags, "if chain > CHAIN:", "if False:"),
        test_hostile.test_chains_of_brackets_do_not_take_the_square_of_their_length,
    ),
    "integers that wrap round": (
        respelled(saving.fitted, "not np.array_equal(found[name], x)", "False"),
        test_hostile_objects.test_integers_that_would_wrap_round_are_not_loaded,
    ),
}
GUARDS = {  # what is spoiled, the check that has to fail, and, of many alike, which
    name: (spoil, check, *chosen, *[{}] * (not chosen))
    for table in (SILENT_FAULTS, FILES, RUNS, DOWNLOADS, MESSAGES, STRANGERS)
    for name, (spoil, check, *chosen) in table.items()
}
WATCHED = {FORWARD, BACKWARD, WRITTEN_TO}
"""The checks of what is on in every other test; here it is off, so that each guard stands alone."""
